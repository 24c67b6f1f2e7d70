//! Cached states. Verdicts are those of a reader that computes each state from the whole log, whether a state is
//! cached, evicted, rewound or never committed.

use std::sync::Arc;
use std::time::Duration;

use hawser_mls::identity::{
    MemberIdentifier, UpdateJudgement, WalletQuestion, fold_trusted, judge,
};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Address, Bytes, Digest, InboxId, SequenceId};
use hawser_validation::identity::{IdentityValidator, InboxValidator, UpdateValidity};
use hawser_validation::limits::{WALLET_ANSWER_MAX_S, WALLET_ASKED_MIN};
use hawser_validation::wallets::{
    ChainReply, NewestBlock, WaitingInboxes, WalletChainList, WalletChains, WalletDecision,
    WalletError, Wallets,
};
use prost::Message as _;

use crate::common::*;

/// Time of every event, unix seconds.
const EVENT_S: u64 = 1_800_000_000;
/// Chain of the contract wallets.
const CHAIN_ID: u64 = 8453;

/// Wallets that agree if the first byte of the signature is even.
struct EvenAgrees;

#[tonic::async_trait]
impl WalletChains for EvenAgrees {
    fn ids(&self) -> Vec<u64> {
        vec![CHAIN_ID]
    }

    async fn newest_block(&self, _: u64) -> Result<NewestBlock, WalletError> {
        Ok(NewestBlock { reached: 100, stated: 100 })
    }

    async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
        let agrees = question.signature.first().is_some_and(|byte| byte % 2 == 0);
        Ok(ChainReply::Answer { agrees, block_time_s: EVENT_S })
    }
}

fn wallets() -> Arc<Wallets> {
    Arc::new(Wallets::new(Arc::new(EvenAgrees), WalletChainList::default()))
}

/// One inbox of a test: its valid updates with their places, and its waiting update.
struct Inbox {
    owner: Wallet,
    id: String,
    log: Vec<(SequenceId, IdentityUpdate)>,
    waiting: Option<(SequenceId, IdentityUpdate)>,
}

impl Inbox {
    fn new(number: u8) -> Self {
        let owner = wallet(1 + number);
        let id = owner.identifier().inbox_id(1);
        Self { owner, id, log: Vec::new(), waiting: None }
    }

    fn inbox_id(&self) -> InboxId {
        InboxId::from_slice(&hex::decode(&self.id).unwrap()).unwrap()
    }

    fn next_update(&self, random: &mut Random) -> IdentityUpdate {
        let owner = &self.owner;
        if self.log.is_empty() && random.below(4) > 0 {
            return update(&self.id, vec![create(&owner.identifier(), 1, owner)]);
        }
        let actions = (0..=random.below(3)).map(|_| {
            let (phone, key) =
                (installation(100 + random.number(6)), passkey(50 + random.number(3)));
            let second = wallet(60 + random.number(3));
            match random.below(10) {
                0..=2 => add(&phone.identifier(), owner, &phone),
                3 => add(&phone.identifier(), &second, &phone),
                4 => add(&second.identifier(), owner, &second),
                5 => add(&key.identifier(), &phone, &key),
                6 => revoke(&phone.identifier(), owner),
                7 => revoke(&second.identifier(), owner),
                8 => change_recovery(&second.identifier(), owner),
                _ => {
                    let account = MemberIdentifier::Ethereum(format!("0x{:040x}", 7));
                    let chain = [CHAIN_ID, 31_337][random.below(2)];
                    let (name, bytes) =
                        (format!("eip155:{chain}:{account}"), [random.number(200); 4]);
                    add(&account, owner, by(move |_| contract_signature(&name, 7, &bytes)))
                }
            }
        });
        let made = update(&self.id, actions.collect());
        if random.below(5) > 0 { made } else { changed(&made, random) }
    }
}

/// Returns an update with one byte changed, if the result decodes.
fn changed(update: &IdentityUpdate, random: &mut Random) -> IdentityUpdate {
    let mut bytes = update.encode_to_vec();
    let at = random.below(bytes.len());
    bytes[at] ^= 1 << random.below(8);
    IdentityUpdate::decode(Bytes::from(bytes)).unwrap_or_else(|_| update.clone())
}

/// Opens an inbox and adds the updates of the log that the state lacks, as a node does.
fn open(validator: &IdentityValidator, inbox: &Inbox) -> (InboxValidator, usize) {
    let mut opened = validator.open(inbox.inbox_id());
    let known = opened.known();
    let mut from = 0;
    if known != SequenceId::NONE {
        match inbox.log.iter().position(|(at, _)| *at == known) {
            Some(place) => from = place + 1,
            None => opened.start_over(),
        }
    }
    for (at, update) in &inbox.log[from..] {
        opened.add(*at, update);
    }
    (opened, inbox.log.len() - from)
}

/// Returns the verdict on an update after a state that is computed from the whole log.
fn expected(wallets: &Wallets, inbox: &Inbox, update: &IdentityUpdate) -> &'static str {
    let before = fold_trusted(None, inbox.log.iter().map(|(_, update)| update)).unwrap();
    let answer = |question: &WalletQuestion| match wallets.decide(question, EVENT_S) {
        WalletDecision::Agrees => Some(true),
        WalletDecision::Open => None,
        WalletDecision::Refused(_) => Some(false),
    };
    match judge(before.as_ref(), update, answer) {
        UpdateJudgement::Valid(_) => "valid",
        UpdateJudgement::Invalid(_) => "invalid",
        UpdateJudgement::Waiting(_) => "waiting",
    }
}

fn name(validity: &UpdateValidity) -> &'static str {
    match validity {
        UpdateValidity::Valid => "valid",
        UpdateValidity::Invalid(_) => "invalid",
        UpdateValidity::Unanswered(_) => "unanswered",
        UpdateValidity::Waiting(_) => "waiting",
    }
}

/// Counts of each kind of step, so that the test can assert that every kind occurred.
#[derive(Debug, Default)]
struct Happened {
    verdicts: std::collections::BTreeMap<&'static str, usize>,
    read: usize,
    not_read: usize,
    resolved: usize,
}

async fn history(seed: u64, bytes_max: u64, happened: &mut Happened) {
    let mut random = Random(seed);
    let wallets = wallets();
    let validator = IdentityValidator::remembering(wallets.clone(), bytes_max);
    let mut inboxes: Vec<Inbox> = (0..4).map(Inbox::new).collect();
    let mut sequence = SequenceId(0);
    for step in 0..120 {
        let inbox = &mut inboxes[random.below(4)];
        if random.below(15) == 0 {
            // The end of the log is cut off.
            let keep = random.below(inbox.log.len() + 1);
            inbox.log.truncate(keep);
            inbox.waiting = None;
            if random.below(2) == 0 {
                validator.forget_all();
            }
        }
        let (at, update) = match inbox.waiting.take() {
            Some(waiting) => {
                if random.below(2) == 0 {
                    for question in hawser_mls::identity::wallet_questions(&waiting.1).unwrap() {
                        let _ = wallets.ask(&question).await;
                    }
                }
                waiting
            }
            None => {
                sequence = sequence.next();
                (sequence, inbox.next_update(&mut random))
            }
        };
        let (mut opened, read) = open(&validator, inbox);
        let expected = expected(&wallets, inbox, &update);
        let validity = opened.validate(at, &update, EVENT_S);
        assert_eq!(name(&validity), expected, "seed {seed} step {step}: {validity:?}");
        *happened.verdicts.entry(expected).or_default() += 1;
        happened.read += read;
        happened.not_read += inbox.log.len() - read;
        if random.below(10) == 0 {
            continue; // it is never committed, and the next one has another place
        }
        match validity {
            UpdateValidity::Valid => inbox.log.push((at, update)),
            UpdateValidity::Waiting(_) => inbox.waiting = Some((at, update)),
            _ => {}
        }
        happened.resolved += usize::from(expected != "waiting");
        opened.keep();
    }
}

#[tokio::test]
async fn verdicts_are_the_same_whatever_is_remembered() {
    let mut happened = Happened::default();
    for seed in 0..6 {
        // Room for all states, for about one inbox, and for none.
        for bytes_max in [1 << 20, 6_000, 0] {
            history(seed, bytes_max, &mut happened).await;
        }
    }
    let count = |verdict| happened.verdicts.get(verdict).copied().unwrap_or(0);
    for verdict in ["valid", "invalid", "waiting"] {
        assert!(count(verdict) > 50, "{happened:?}");
    }
    assert!(happened.read > 500 && happened.not_read > 500, "{happened:?}");
}

/// An update of a large inbox must not read its log again.
#[test]
fn a_remembered_state_is_advanced_and_nothing_is_read() {
    let validator = IdentityValidator::new(wallets());
    let mut inbox = Inbox::new(0);
    let owner = inbox.owner.clone();
    for place in 0..5u8 {
        let phone = installation(100 + place);
        let next = match place {
            0 => update(&inbox.id, vec![create(&owner.identifier(), 1, &owner)]),
            _ => update(&inbox.id, vec![add(&phone.identifier(), &owner, &phone)]),
        };
        let (mut opened, read) = open(&validator, &inbox);
        assert_eq!(read, 0);
        let at = SequenceId(u64::from(place) + 1);
        assert_eq!(opened.validate(at, &next, EVENT_S), UpdateValidity::Valid);
        opened.keep();
        inbox.log.push((at, next));
    }
    let (opened, _) = open(&validator, &inbox);
    drop(opened);
    assert_eq!(open(&validator, &inbox).1, 5, "what was not kept is forgotten");
}

/// Chain 8453, which does not answer.
struct SilentChain;

#[tonic::async_trait]
impl WalletChains for SilentChain {
    fn ids(&self) -> Vec<u64> {
        vec![CHAIN_ID]
    }

    async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError> {
        Err(WalletError::NoEndpoint(chain_id))
    }

    async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
        Err(WalletError::NoEndpoint(question.chain_id))
    }
}

/// No inbox, so that only the test has updates validated.
struct NoInboxes;

impl WaitingInboxes for NoInboxes {
    fn inboxes_waiting(&self) -> u64 {
        0
    }

    fn chain_time_s(&self) -> u64 {
        0
    }

    fn judge_again(&self) {}
}

/// Otherwise some updates in a row, whose wallets cannot be asked, would hold their inbox for as many hours.
#[tokio::test(start_paused = true)]
async fn the_time_for_an_update_behind_a_waiting_one_begins_at_once() {
    let wallets = Arc::new(Wallets::new(Arc::new(SilentChain), WalletChainList::default()));
    let asking = wallets.clone().start(Arc::new(NoInboxes));
    let validator = IdentityValidator::new(wallets.clone());
    let account = MemberIdentifier::Ethereum(format!("0x{:040x}", 7));
    let founding = |block: u64| {
        let name = format!("eip155:{CHAIN_ID}:{account}");
        let sign = by(move |_| contract_signature(&name, block, &[2]));
        update(&account.inbox_id(1), vec![create(&account, 1, sign)])
    };
    let [first, second, third] = [7, 8, 9].map(founding);
    let inbox = InboxId::from_slice(&hex::decode(account.inbox_id(1)).unwrap()).unwrap();
    let mut opened = validator.open(inbox);
    let mut verdict = |at, update| name(&opened.validate(SequenceId(at), update, EVENT_S));
    assert_eq!(verdict(1, &first), "waiting");
    validator.look_ahead(&second, EVENT_S);
    tokio::time::sleep(Duration::from_secs(1)).await; // both are asked
    tokio::time::advance(WALLET_ASKED_MIN).await;
    // The event of another update shows that six hours have passed on the app chain.
    let later = WalletQuestion {
        chain_id: CHAIN_ID,
        address: Address([9; 20]),
        block_number: 1,
        digest: Digest([9; 32]),
        signature: Bytes::new(),
    };
    assert_eq!(wallets.decide(&later, EVENT_S + WALLET_ANSWER_MAX_S), WalletDecision::Open);
    assert_eq!(verdict(1, &first), "unanswered");
    assert_eq!(verdict(2, &second), "unanswered");
    assert_eq!(verdict(3, &third), "waiting", "its time begins now");
    asking.stop().await;
}
