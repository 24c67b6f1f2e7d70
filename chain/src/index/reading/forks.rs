//! The part of the requesting half that decides about reorganisations.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::PageReader;
use super::fork_votes::ForkVote;
use crate::index::fetch;
use crate::index::walk::{BlockHeader, Fork};
use crate::send::{Chain, RequestError};

/// The time limit for an endpoint's answer about a block that is replaced near the head. Guess.
const VOTE_MAX: Duration = Duration::from_secs(2);
/// The time for which an endpoint is waited for that is silent about a block replaced far below the head, and the pause
/// between two questions. Guesses: failures that pass do so within it, and such reorganisations are rare.
const SILENT_MAX: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(1);

impl PageReader {
    /// Compares the blocks that were read with those of an endpoint, and turns back to the last one that was not
    /// replaced.
    pub(super) async fn compare(&mut self, numbers: Vec<u64>) {
        let (numbers, is_of_head) = (&numbers, self.walk.is_doubted_by_head());
        // The endpoint whose page raised the doubt is asked first.
        let doubted = self.giver.clone().filter(|_| !is_of_head);
        let order =
            self.endpoints.order_preferring(|endpoint| doubted.as_deref() == Some(endpoint));
        let headers = self.endpoints.ask_in(order, |chain| async move {
            Ok::<_, RequestError>((fetch::headers(&chain, numbers, None).await?, chain))
        });
        let (headers, shown_by) = match headers.await {
            Ok(answer) => answer,
            Err(error) => {
                self.context.stuck(&error.to_string());
                return sleep(self.pauses.next()).await;
            }
        };
        let fork = self.walk.fork(&headers);
        let left = self.leaving.as_ref();
        let may_move = left.is_some_and(|left| !left.contains(shown_by.endpoint()));
        if let Some(fork) = fork.filter(|_| !may_move)
            && self.refuses(&fork, &shown_by).await
        {
            return;
        }
        let is_anew = match fork {
            Some(fork) => self.is_anew(&fork).await,
            None => false,
        };
        let unread = self.walk.unread();
        let depth = self.walk.compared(&headers);
        let is_left = (depth.is_some() || !is_of_head) && self.turns.note_turn(unread);
        if is_left {
            let reason = "the endpoint takes back the blocks that it has shown, again and again";
            self.context.stuck(reason);
            // If the headers are those of the blocks that were read, the page does not follow them.
            let named = doubted.as_deref().filter(|_| depth.is_none());
            self.endpoints.distrust_named(named.unwrap_or(shown_by.endpoint()), reason);
        }
        match depth {
            Some(_) => {
                if is_anew {
                    let strand = self.context.name;
                    tracing::warn!(
                        code = "chain_started_anew",
                        strand,
                        "the chain was started anew: all its blocks are read again"
                    );
                    self.walk.rewind(self.settings.first_block);
                }
                let from_block = self.walk.unread();
                let depth = unread.saturating_sub(from_block);
                tracing::warn!(
                    code = "chain_reorganised",
                    strand = self.context.name,
                    depth,
                    from_block,
                    "the chain was reorganised: reading again"
                );
                self.context.status.reorganised(depth);
                self.begin_pass();
            }
            // After a pause, the request might go to the same endpoint again.
            None if is_left => {}
            None => sleep(self.pauses.next()).await,
        }
    }

    /// Refuses a reorganisation, after a pause, if an endpoint has a block that it replaces far below the head, or if
    /// more endpoints that go on have one near the head than another block at its height. The endpoint in use would
    /// otherwise have stored events taken back by itself. Returns true if it is refused; then the endpoint `shown_by`,
    /// which has shown it, is left.
    async fn refuses(&mut self, fork: &Fork, shown_by: &Chain) -> bool {
        let is_deep = fork.is_deep();
        if !is_deep && self.endpoints.hosts() == 1 {
            return false;
        }
        let began = Instant::now();
        let votes = loop {
            let (votes, silent) = self.votes_on(fork).await;
            // One that has been silent for as long before is not waited for again, as it may be gone.
            let is_waited_for = |host: &String| !self.silences.is_silent_for(host, SILENT_MAX);
            // Near the head, the votes of those that answer decide.
            let is_open = is_deep
                && silent.iter().any(is_waited_for)
                && votes.values().all(|it| !it.has_replaced);
            if !is_open || began.elapsed() >= SILENT_MAX {
                break votes;
            }
            self.context.stuck("an endpoint is silent about blocks that another one has replaced");
            sleep(ASK_EVERY).await;
        };
        let is_refused = if is_deep {
            votes.values().any(|vote| vote.has_replaced)
        } else {
            self.fork_votes.refuse(fork.replaced, &votes, Instant::now())
        };
        if !is_refused {
            return false;
        }
        // Near the head, other endpoints may come to the new blocks a moment later.
        let is_left = is_deep || self.turns.note_turn(self.walk.unread());
        if is_left {
            let reason =
                "endpoints contradict each other: one of them has replaced blocks that others have";
            self.context.stuck(reason);
        }
        sleep(self.pauses.next()).await;
        if is_left {
            let reason = "it is on another branch than other endpoints";
            self.endpoints.distrust_asked(shown_by, reason);
        }
        true
    }

    /// Returns the votes of the endpoints that have a replaced block or another one at its height, by host and port,
    /// and those that do not answer.
    async fn votes_on(&self, fork: &Fork) -> (BTreeMap<String, ForkVote>, BTreeSet<String>) {
        let (block, is_deep, endpoints) = (fork.replaced, fork.is_deep(), &self.endpoints);
        let numbers = &[block.number];
        let ask = |chain: Chain| async move {
            let head = async {
                // Far below the head, it does not decide.
                let head = if is_deep { None } else { Some(fetch::head(&chain).await?) };
                Ok::<_, RequestError>(head.map_or(0, |head| head.block.number))
            };
            let (headers, head) = tokio::try_join!(fetch::headers(&chain, numbers, None), head)?;
            let vote =
                |header: &BlockHeader| ForkVote { has_replaced: header.block == block, head };
            Ok::<_, RequestError>(headers.first().map(vote))
        };
        let answers = if is_deep {
            endpoints.each(ask).await
        } else {
            endpoints.each_in_time(VOTE_MAX, ask).await
        };
        let mut votes: BTreeMap<String, ForkVote> = BTreeMap::new();
        let mut silent = BTreeSet::new();
        for (host, answer) in endpoints.display_urls().zip(answers) {
            match answer {
                Ok(Some(vote)) => votes.entry(host).or_default().add(vote),
                Ok(None) => {}
                Err(_) => _ = silent.insert(host),
            }
        }
        silent.retain(|host| !votes.contains_key(host));
        (votes, silent)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use serde_json::json;

    use super::*;
    use crate::endpoints::Endpoints;
    use crate::index::event::BlockRef;
    use crate::index::reading::tests::{block, endpoint, reader};
    use crate::index::walk::Walk;

    /// One endpoint turns to another branch far below the head while a request to the other one fails. It would have
    /// the payments of a thousand blocks taken back.
    #[tokio::test]
    async fn the_silence_of_a_moment_lets_no_endpoint_replace_deep_blocks() {
        let (mut reader, fork, urls) = reader_of_a_deep_fork().await;
        let liar = Chain::connect(&urls[0], 1).await.unwrap();
        assert!(reader.refuses(&fork, &liar).await);
        let errors: Vec<_> =
            reader.endpoints.status().into_iter().map(|it| it.error.is_some()).collect();
        assert_eq!(errors, [true, false], "the one that has shown it is left");
    }

    /// Otherwise a node with an endpoint that is gone would wait for a minute at each such reorganisation.
    #[tokio::test]
    async fn an_endpoint_that_has_been_silent_for_long_is_not_waited_for_again() {
        let (mut reader, fork, urls) = reader_of_a_deep_fork().await;
        let since = Instant::now().checked_sub(SILENT_MAX).unwrap();
        for at in [since, Instant::now()] {
            reader.silences.note(BTreeSet::from([urls[1].clone()]), at);
        }
        let other = Chain::connect(&urls[0], 1).await.unwrap();
        assert!(!reader.refuses(&fork, &other).await, "its answer to a second question would");
    }

    /// On a chain with a block every twelve seconds, the next recheck is six minutes away.
    #[tokio::test]
    async fn an_endpoint_that_was_silent_at_one_recheck_is_waited_for_however_long_ago_that_was() {
        let (mut reader, fork, urls) = reader_of_a_deep_fork().await;
        let before = Instant::now().checked_sub(SILENT_MAX).unwrap();
        reader.silences.note(BTreeSet::from([urls[1].clone()]), before);
        let liar = Chain::connect(&urls[0], 1).await.unwrap();
        assert!(reader.refuses(&fork, &liar).await);
    }

    /// Returns a reader of which the first endpoint has replaced a block far below the head. The second one has it, and
    /// does not answer the first question about it.
    async fn reader_of_a_deep_fork() -> (PageReader, Fork, [String; 2]) {
        let (mut reader, other) = (reader(), B256::repeat_byte(1));
        let shown = |hash: B256| {
            let (parent, number) = (B256::ZERO, "0x1388");
            json!({ "number": number, "hash": hash, "parentHash": parent, "timestamp": "0x1" })
        };
        // Not a block at first, so that there is no answer.
        let honest = vec![json!("0x1"), shown(B256::ZERO)];
        let urls = [endpoint(vec![shown(other)]).await, endpoint(honest).await];
        reader.endpoints = Endpoints::new("app", &urls, 1).unwrap();
        reader.walk = Walk::new(reader.settings.clone(), Some(block(5000)));
        let replaced = BlockRef { number: 5000, hash: other };
        let parent = B256::ZERO;
        let header = BlockHeader { block: replaced, parent, time_s: 1, may_have_logs: false };
        let fork = reader.walk.fork(&[header]).unwrap();
        assert!(fork.is_deep());
        (reader, fork, urls)
    }
}
