//! The app chain, which `hawser audit report` and `hawser audit network` ask if their arguments name it: before a
//! report is judged, for the events, and the times of events, that the judgement needs.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::Address;
use hawser_audit::chain::{ChainQuestion, NamedEvent, ReadChain};
use hawser_audit::evidence_file::FiledReport;
use hawser_audit::{Judged, KnownKeys};
use hawser_chain::admin::{Contract, Contracts};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::EventSource;
use hawser_chain::index::finalised::FinalChain;
use hawser_chain::index::lookup::AgreementError;
use hawser_chain::send::RequestError;
use hawser_node::error::RunError;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_rules::misbehavior::{EventAnswer, PlaceAnswer};

use crate::args::onchain::NetworkArgs;
use crate::commands::onchain;

/// Largest number of questions of one run. A guess: any caller may submit any number of reports about chain envelopes
/// and dependencies to a node.
const QUESTIONS_MAX: u64 = 10_000;
/// Largest number of errors that are printed. A guess: enough to see what is wrong.
const ERRORS_MAX: usize = 20;

/// The app chain. It is asked for its final block together with the first question.
pub(super) struct AskedChain {
    endpoints: Endpoints,
    contracts: Contracts,
    first_block: u64,
    reached: Option<FinalChain>,
    /// An endpoint did not answer, so no further question is asked.
    is_silent: bool,
    asked: u64,
    /// The times of sequence ids that the chain has told, at most [`QUESTIONS_MAX`].
    places: BTreeMap<EnvelopeId, PlaceAnswer>,
    errors: BTreeSet<String>,
}

/// Judges a report, by the chain if there is one to ask.
pub(super) async fn judge(
    chain: &mut Option<AskedChain>,
    held: FiledReport,
    keys: &KnownKeys,
) -> Judged {
    match chain {
        Some(chain) => chain.judge(held, keys).await,
        None => Judged::new(held, keys),
    }
}

impl AskedChain {
    /// Returns the chain that the arguments name; `None` without such an argument. Sends it no request yet.
    ///
    /// # Errors
    /// When the arguments are wrong, or lack the address of a contract.
    pub(super) async fn of(args: &NetworkArgs) -> Result<Option<Self>, RunError> {
        if !args.are_given() {
            return Ok(None);
        }
        let (urls, known) = onchain::app_chain_to_read(args).await?;
        Ok(Some(Self {
            endpoints: Endpoints::new("app", &urls, known.app_id).map_err(RunError::usage)?,
            contracts: known.contracts,
            first_block: known.app_first_block,
            reached: None,
            is_silent: false,
            asked: 0,
            places: BTreeMap::new(),
            errors: BTreeSet::new(),
        }))
    }

    /// Judges a report. Asks the chain first if the judgement depends on it.
    async fn judge(&mut self, held: FiledReport, keys: &KnownKeys) -> Judged {
        let mut read = ReadChain::default();
        let judged = Judged::by_chain(held, keys, &read);
        let lacking = read.lacking();
        if lacking.is_empty() {
            return judged;
        }
        for question in lacking {
            match question {
                ChainQuestion::Event(event) => {
                    if let Some(answer) = self.event(event).await {
                        read.add_event(event, answer);
                    }
                }
                ChainQuestion::Place(place) => {
                    if let Some(answer) = self.place(place).await {
                        read.add_place(place, answer);
                    }
                }
            }
        }
        Judged::by_chain(judged.held, keys, &read)
    }

    /// Asks for an event; `None` if the chain does not order its strand, is silent, or does not decide it.
    async fn event(&mut self, (id, transaction): NamedEvent) -> Option<EventAnswer> {
        let (source, address) = self.broadcaster(id.originator)?;
        if !self.count_question() {
            return None;
        }
        let answer = match self.reached().await {
            Ok(chain) => chain.event(source, address, id.sequence, transaction).await,
            Err(error) => Err(error),
        };
        self.taken(id, answer)
    }

    /// Asks for the time of a sequence id; `None` as for [`event`](Self::event). Many envelopes depend on the same one,
    /// so its answer is kept.
    async fn place(&mut self, id: EnvelopeId) -> Option<PlaceAnswer> {
        if let Some(known) = self.places.get(&id) {
            return Some(*known);
        }
        let (source, address) = self.broadcaster(id.originator)?;
        if !self.count_question() {
            return None;
        }
        let answer = match self.reached().await {
            Ok(chain) => chain.place(source, address, id.sequence).await,
            Err(error) => Err(error),
        };
        let answer = self.taken(id, answer)?;
        self.places.insert(id, answer);
        Some(answer)
    }

    /// Returns the contract that orders a strand; `None` if the chain orders none with this id.
    fn broadcaster(&self, strand: OriginatorId) -> Option<(EventSource, Address)> {
        let (source, contract) = match strand {
            OriginatorId::GROUP_MESSAGES => {
                (EventSource::GroupMessages, Contract::GroupMessageBroadcaster)
            }
            OriginatorId::IDENTITY_UPDATES => {
                (EventSource::IdentityUpdates, Contract::IdentityUpdateBroadcaster)
            }
            _ => return None,
        };
        Some((source, self.contracts.get(contract)?))
    }

    /// Counts a question. Returns false if it must not be asked.
    fn count_question(&mut self) -> bool {
        if self.is_silent {
            return false;
        }
        if self.asked == QUESTIONS_MAX {
            self.errors.insert(format!("only the first {QUESTIONS_MAX} questions were asked"));
            return false;
        }
        self.asked += 1;
        true
    }

    /// Returns the chain up to its final block, which is looked for once.
    async fn reached(&mut self) -> Result<&FinalChain, AgreementError> {
        let chain = match self.reached.take() {
            Some(chain) => chain,
            None => FinalChain::reach(self.endpoints.clone(), self.first_block).await?,
        };
        let chain: &FinalChain = self.reached.insert(chain);
        Ok(chain)
    }

    /// Returns the answer to a question about a place, and notes an error.
    fn taken<T>(&mut self, id: EnvelopeId, answer: Result<T, AgreementError>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        let is_silence = matches!(error, AgreementError::Rpc(RequestError::Unreachable { .. }));
        self.is_silent = is_silence || self.reached.is_none();
        if self.errors.len() < ERRORS_MAX {
            self.errors.insert(match self.is_silent {
                true => format!("the app chain could not be asked: {error}"),
                false => format!("the app chain does not decide envelope {id}: {error}"),
            });
        }
        None
    }

    /// Returns the chain, its last block that counts, and the endpoints whose answers were used; `None` if it was not
    /// asked.
    pub(super) fn read(&self) -> Option<String> {
        let last = self.reached.as_ref()?.last_block();
        let urls = self.endpoints.status().into_iter().map(|endpoint| endpoint.display_url);
        let (id, urls) = (self.endpoints.id(), urls.collect::<Vec<_>>().join(", "));
        Some(format!("app chain {id} up to its final block {last}, on the word of {urls}"))
    }

    /// Returns the lines about the chain for people.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.read().into_iter().chain(self.errors.iter().cloned())
    }

    /// Returns the reasons for which questions stay open.
    pub(super) fn errors(&self) -> &BTreeSet<String> {
        &self.errors
    }
}
