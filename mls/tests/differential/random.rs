//! Random updates: histories of random actions by random signers, and updates with changed bytes.

use hawser_mls::identity::{AssociationState, MemberIdentifier};
use hawser_proto::pb::xmtp::identity::associations as pb;
use prost::Message as _;

use super::cases::{self, Cases, signed};
use super::forms::{Sign, add_act};
use crate::common::*;

/// Number of histories, of [`STEPS`] updates each.
const HISTORIES: u64 = 24;
/// Updates tried in one history.
const STEPS: usize = 40;
/// Number of updates with randomly changed bytes.
const CHANGED: usize = 900;

pub(crate) fn add(cases: &mut Cases) {
    for seed in 0..HISTORIES {
        history(cases, seed);
    }
    changed(cases);
}

/// Adds a history: each random update is a case, and the valid ones are the log of the later cases.
fn history(cases: &mut Cases, seed: u64) {
    let mut random = Random(seed);
    let owner = wallet(1);
    let nonce = seed % 2;
    let id = owner.identifier().inbox_id(nonce);
    let log = format!("history {seed}");
    let mut updates = vec![signed(&id, TIME_NS, &[create(&owner.identifier(), nonce, &owner)])];
    let mut state = cases::after(None, &updates[0]);
    let mut last = updates[0].clone();
    for step in 0..STEPS {
        let update = match random.below(12) {
            0 => last.clone(), // a replay
            1 => with_old_signature(&mut random, &id, &updates),
            _ => {
                let actions: Vec<Act> = (0..=random.below(3))
                    .map(|_| action(&mut random, state.as_ref(), nonce))
                    .collect();
                signed(&id, TIME_NS + random.next_u64() % 4_000_000_000, &actions)
            }
        };
        let name = format!("{log} step {step}");
        cases.bytes(name, &log, updates.len(), update.encode_to_vec());
        if let Some(after) = cases::after(state.as_ref(), &update) {
            state = Some(after);
            updates.push(update.clone());
        }
        last = update;
    }
    cases.log(&log, updates);
}

/// Returns an update at the time of an earlier one with the same actions in another order, or with one left out.
fn with_old_signature(
    random: &mut Random,
    id: &str,
    updates: &[pb::IdentityUpdate],
) -> pb::IdentityUpdate {
    let mut update = updates[random.below(updates.len())].clone();
    let count = update.actions.len();
    if count > 1 && random.below(2) == 0 {
        update.actions.swap(0, count - 1);
    } else if count > 1 {
        update.actions.truncate(count - 1);
    } else {
        update.client_timestamp_ns ^= 1; // the text says whole seconds
    }
    id.clone_into(&mut update.inbox_id);
    update
}

/// Returns a signer of any kind with the identifier that it signs for. There are few of them, so that they recur.
fn signer(random: &mut Random) -> (MemberIdentifier, Sign) {
    match random.below(9) {
        0..=2 => {
            let wallet = wallet(1 + random.number(3));
            (wallet.identifier(), (&wallet).into())
        }
        3..=4 => {
            let installation = installation(10 + random.number(4));
            (installation.identifier(), (&installation).into())
        }
        5..=6 => {
            let passkey = passkey(20 + random.number(2));
            (passkey.identifier(), (&passkey).into())
        }
        7 => {
            let wallet = wallet(1 + random.number(2));
            let delegate = delegate(&wallet, 50 + random.number(2));
            (wallet.identifier(), (&delegate).into())
        }
        _ => {
            // A contract wallet, or a key that claims to be one.
            let account = match random.below(3) {
                0 => wallet(1).identifier(),
                _ => MemberIdentifier::Ethereum(format!("0x{:040x}", random.below(2) + 170)),
            };
            let chain = [1, 8453][random.below(2)];
            let bytes = random.next_u64().to_be_bytes();
            let name = format!("eip155:{chain}:{account}");
            (account, by(move |_| contract_signature(&name, 7, &bytes)))
        }
    }
}

/// Returns a random action, more often one that may be valid.
fn action(random: &mut Random, state: Option<&AssociationState>, nonce: u64) -> Act {
    let recovery = state.and_then(|state| by_recovery(state.recovery()));
    match random.below(12) {
        0 => {
            let (account, sign) = signer(random);
            create(&account, nonce, sign)
        }
        1..=6 => {
            let (member, new) = signer(random);
            let (_, by) = signer(random);
            let by = if random.below(2) == 0 { recovery.unwrap_or(by) } else { by };
            let member = if random.below(10) == 0 { signer(random).0 } else { member };
            add_act(&member, by, new)
        }
        7..=9 => {
            let (member, _) = signer(random);
            let (_, by) = signer(random);
            let by = if random.below(4) > 0 { recovery.unwrap_or(by) } else { by };
            revoke(&member, by)
        }
        _ => {
            let (to, _) = signer(random);
            let (_, by) = signer(random);
            let by = if random.below(3) > 0 { recovery.unwrap_or(by) } else { by };
            change_recovery(&to, by)
        }
    }
}

/// Returns the signer of a recovery identifier, if the test has its key.
fn by_recovery(recovery: &MemberIdentifier) -> Option<Sign> {
    let wallets = (1..4).map(|number| (wallet(number).identifier(), Sign::from(&wallet(number))));
    let passkeys =
        (20..22).map(|number| (passkey(number).identifier(), Sign::from(&passkey(number))));
    wallets.chain(passkeys).find(|(identifier, _)| identifier == recovery).map(|(_, sign)| sign)
}

/// Adds updates of the histories with changed bytes.
fn changed(cases: &mut Cases) {
    let mut random = Random(7_000);
    for number in 0..CHANGED {
        let log = format!("history {}", random.next_u64() % HISTORIES);
        let after = random.below(cases.logs[&log].len());
        let mut bytes = cases.logs[&log][after].encode_to_vec();
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.number(255),
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes.insert(at, random.number(255)),
            _ => drop(bytes.remove(at)),
        }
        cases.bytes(format!("changed {number}"), &log, after, bytes);
    }
}
