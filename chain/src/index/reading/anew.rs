//! Notices that a chain was started anew, as chains for development are.

use super::PageReader;
use crate::index::context::blocking;
use crate::index::fetch;
use crate::index::walk::Fork;
use crate::send::{Chain, RequestError};

impl PageReader {
    /// Returns true if the chain was started anew: none of the remembered blocks is left, and every endpoint shows
    /// another block in the place of one that the sink read long ago, before the blocks that are read again in any
    /// case. No reorganisation goes so deep, so what is stored below may be of the former chain, too. One endpoint
    /// alone must not have all of it taken back, nor one that serves another chain for a moment.
    pub(super) async fn is_anew(&self, fork: &Fork) -> bool {
        if fork.kept > 0 {
            return false;
        }
        let old = match blocking(&self.context.sink, |sink| sink.old_block()).await {
            Ok(Some(old)) if old.number < fork.next => old,
            Ok(_) | Err(_) => return false,
        };
        let numbers = &[old.number];
        let ask = |chain: Chain| async move {
            let headers = fetch::headers(&chain, numbers, None).await?;
            let is_of_chain = chain.check_id().await.is_ok();
            let shows_other = headers.first().is_some_and(|header| header.block != old);
            Ok::<_, RequestError>(is_of_chain && shows_other)
        };
        let answers = self.endpoints.each(ask).await;
        answers.iter().all(|answer| matches!(answer, Ok(true)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use alloy::primitives::B256;
    use hawser_proto::SequenceId;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use crate::endpoints::Endpoints;
    use crate::index::event::BlockRef;
    use crate::index::reading::tests::{block, reader};
    use crate::index::sink::{Sink, SinkError};
    use crate::index::walk::{BlockHeader, EventBatch, Walk};

    const OTHER: B256 = B256::repeat_byte(1);

    /// A sink that keeps an old block.
    struct SinkWithOldBlock(BlockRef);

    impl Sink for SinkWithOldBlock {
        fn position(&self) -> Result<Option<BlockRef>, SinkError> {
            Ok(None)
        }

        fn old_block(&self) -> Result<Option<BlockRef>, SinkError> {
            Ok(Some(self.0))
        }

        fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
            Ok(SequenceId::NONE)
        }

        fn store(&self, _batch: &EventBatch) -> Result<(), SinkError> {
            Ok(())
        }
    }

    /// Starts an endpoint that has one block with this hash, or none, at each height. It states chain id 1 first, and
    /// then `later_id`. Returns its URL.
    async fn endpoint(hash: Option<B256>, later_id: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked_for_id = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked_for_id = asked_for_id.clone();
                tokio::spawn(async move {
                    let (mut part, mut text) = (vec![0; 4096], String::new());
                    while let Ok(len @ 1..) = stream.read(&mut part).await {
                        text += &String::from_utf8_lossy(&part[..len]);
                        let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
                        let Ok(asked) = serde_json::from_str::<Value>(body) else { continue };
                        text.clear();
                        let block = hash.map(|hash| {
                            let number = &asked["params"][0];
                            let (parent, time) = (B256::ZERO, "0x1");
                            json!({
                                "number": number, "hash": hash, "parentHash": parent, "timestamp": time
                            })
                        });
                        let result = if asked["method"] != "eth_chainId" {
                            json!(block)
                        } else if asked_for_id.fetch_add(1, Relaxed) == 0 {
                            json!("0x1")
                        } else {
                            json!(later_id)
                        };
                        let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
                        let body = body.to_string();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", body.len());
                        let answer = format!("{head}\r\n\r\n{body}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        url
    }

    /// Returns true if a reader takes its chain for one that was started anew. Its last block, 5000, was replaced, the
    /// sink keeps the old block of this number, and the two endpoints are as [`endpoint`] describes.
    async fn is_anew(old: u64, shown: [(Option<B256>, &'static str); 2]) -> bool {
        let mut reader = reader();
        let mut urls = Vec::new();
        for (hash, later_id) in shown {
            urls.push(endpoint(hash, later_id).await);
        }
        reader.endpoints = Endpoints::new("app", &urls, 1).unwrap();
        reader.context.sink = Arc::new(SinkWithOldBlock(block(old)));
        reader.walk = Walk::new(reader.settings.clone(), Some(block(5000)));
        let replaced = BlockRef { number: 5000, hash: OTHER };
        let parent = B256::ZERO;
        let header = BlockHeader { block: replaced, parent, time_s: 1, may_have_logs: false };
        let fork = reader.walk.fork(&[header]).unwrap();
        reader.is_anew(&fork).await
    }

    /// Otherwise all payments would be taken back, and balances would not be known until they have been read again.
    #[tokio::test]
    async fn no_endpoint_alone_makes_a_chain_look_started_anew() {
        let (anew, same) = ((Some(OTHER), "0x1"), (Some(B256::ZERO), "0x1"));
        assert!(is_anew(10, [anew, anew]).await);
        assert!(!is_anew(10, [anew, same]).await, "the other one has the old block");
        assert!(!is_anew(10, [anew, (None, "0x1")]).await, "the other one shows none");
        assert!(!is_anew(10, [anew, (Some(OTHER), "0x2")]).await, "it is of another chain");
    }

    /// As after a reorganisation that has replaced the block at which the reader came to the head shortly before.
    #[tokio::test]
    async fn a_replaced_block_that_is_read_again_anyhow_proves_no_chain_that_was_started_anew() {
        let anew = (Some(OTHER), "0x1");
        assert!(is_anew(3976, [anew, anew]).await);
        assert!(!is_anew(3977, [anew, anew]).await, "1,024 blocks are read again");
    }
}
