//! Logs of inboxes: those of real clients, and logs with every kind of action.

use std::collections::BTreeMap;

use hawser_mls::identity::{
    AssociationState, ChangeDecision, MemberIdentifier, TrustedUpdate, UpdateCheck,
    UpdateJudgement, add_trusted, check, fold_trusted, judge,
};
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use prost::Message as _;

use crate::common::{
    self, add, captured, change_recovery, contract_signature, create, delegate, inbox,
    installation, passkey, revoke, update, valid, wallet,
};

fn captured_updates() -> Vec<pb::IdentityUpdate> {
    let updates: Vec<_> = captured("identity_update")
        .into_iter()
        .map(|captured| match captured.envelope.payload {
            Some(Payload::IdentityUpdate(update)) => {
                assert_eq!(hex::encode(&captured.topic[1..]), update.inbox_id);
                update
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(!updates.is_empty());
    updates
}

#[test]
fn updates_of_real_clients_hold_in_their_order() {
    let mut states: BTreeMap<String, AssociationState> = BTreeMap::new();
    let mut logs: BTreeMap<String, Vec<pb::IdentityUpdate>> = BTreeMap::new();
    for update in captured_updates() {
        let after = valid(states.get(&update.inbox_id), &update);
        assert_eq!(after.inbox_id(), update.inbox_id);
        states.insert(update.inbox_id.clone(), after);
        logs.entry(update.inbox_id.clone()).or_default().push(update);
    }
    let members = |inbox: &str| states[inbox].members().count();
    let alice = "e7afd42e8d9545f2588b1fe96b45db9d5eb922df0d5d04df39915fb246f6f8f8";
    let bob = "0ecefbec0912117e0c01576386b59da308611a41c772de34e9e8cbe6c84e8213";
    let dave = "e30549a16f7c02df1276e7797e61afa5e648d578563d34074ca2134c15fec29a";
    assert_eq!(members(alice), 3, "a wallet and two installations; the second wallet was revoked");
    assert_eq!(members(bob), 2, "the second installation was revoked");
    assert_eq!(states[dave].recovery().to_string(), "0xc9fbb2d5bea60de8427bb0d3cfba0975116119a2");
    for (inbox, log) in &logs {
        let folded = fold_trusted(None, log).unwrap();
        assert_eq!(folded.as_ref(), states.get(inbox), "a trusted log leads to the same state");
    }
    for state in states.values() {
        assert!(state.wire_len_min() <= state.to_pb().encoded_len());
    }
}

/// Without this, a log of n updates would cost n² (logs have thousands).
#[test]
fn a_state_is_kept_and_advanced_and_an_update_that_does_not_hold_leaves_it_as_it_was() {
    let (id, before) = inbox();
    let (owner, phone) = (wallet(1), installation(2));
    let adding = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);
    let expected = valid(Some(&before), &adding);
    let place = before.inbox_id().as_ptr();
    let mut state = Some(before);
    let change = check(state.as_ref(), &adding).unwrap();
    assert_eq!(change.decide(|_| None), ChangeDecision::Agreed);
    assert_eq!(change.apply(&mut state), &expected);
    assert_eq!(state.as_ref().unwrap().inbox_id().as_ptr(), place, "no copy was made");

    let spoilt =
        update(&id, vec![revoke(&phone.identifier(), &owner), revoke(&phone.identifier(), &phone)]);
    assert_eq!(check(state.as_ref(), &spoilt).unwrap_err().action, Some(1));
    assert_eq!(add_trusted(&mut state, &spoilt).unwrap_err().action, Some(1));
    assert_eq!(state.as_ref(), Some(&expected));

    let account = MemberIdentifier::Ethereum("0x00000000000000000000000000000000000000aa".into());
    let name = format!("eip155:1:{account}");
    let sign = move |_: &str| contract_signature(&name, 7, &[1]);
    let wallet = update(&id, vec![add(&account, &owner, common::by(sign))]);
    let change = check(state.as_ref(), &wallet).unwrap();
    match change.decide(|_| None) {
        ChangeDecision::Open(questions) => assert_eq!(questions.len(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(state.as_ref(), Some(&expected), "it waits");
    assert_eq!(change.decide(|_| Some(true)), ChangeDecision::Agreed);
    assert!(change.apply(&mut state).member(&account).is_some());
}

#[test]
fn an_update_that_is_checked_in_steps_is_judged_as_in_one() {
    let (id, before) = inbox();
    let (owner, phone) = (wallet(1), installation(2));
    let adding = |number| add(&wallet(number).identifier(), &owner, &wallet(number));
    let good = update(&id, (3..10).map(adding).collect());
    for step in 1..9 {
        let mut steps = UpdateCheck::begin(&good).unwrap();
        let mut sizes = vec![steps.verify_next(step).unwrap()];
        while sizes.last() == Some(&step) {
            sizes.push(steps.verify_next(step).unwrap());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 7, "{sizes:?}");
        let mut state = Some(before.clone());
        assert_eq!(
            steps.finish(Some(&before)).unwrap().apply(&mut state),
            &valid(Some(&before), &good)
        );
    }

    let mut forged = good.clone();
    let swapped = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);
    forged.actions[4] = swapped.actions[0].clone();
    let expected = check(Some(&before), &forged).unwrap_err();
    let mut steps = UpdateCheck::begin(forged).unwrap();
    assert_eq!(steps.verify_next(4).unwrap(), 4);
    assert_eq!(steps.verify_next(1).unwrap_err(), expected);
    assert_eq!(expected.action, Some(4));
}

#[test]
fn an_inbox_is_named_by_its_founder_and_a_nonce() {
    let founder = MemberIdentifier::Ethereum("0x1234567890abcdef1234567890abcdef12345678".into());
    let expected = "fcd18d86276d7a99fe522dba9660c420f03c8648785ada7c5daae232a3df77a9";
    assert_eq!(founder.inbox_id(0), expected);
}

#[test]
fn every_kind_of_member_joins_and_leaves() {
    let (owner, phone, key) = (wallet(1), installation(2), passkey(3));
    let (id, state) = inbox();
    let phone_id = phone.identifier();
    let state = valid(Some(&state), &update(&id, vec![add(&phone_id, &owner, &phone)]));
    let by_phone = vec![add(&key.identifier(), &phone, &key)];
    let state = valid(Some(&state), &update(&id, by_phone));
    let tablet = installation(4);
    let by_passkey = vec![add(&tablet.identifier(), &key, &tablet)];
    let state = valid(Some(&state), &update(&id, by_passkey));
    assert_eq!(state.members().count(), 4);
    let passkey = state.member(&key.identifier()).unwrap();
    assert_eq!(passkey.added_by, Some(phone_id.clone()));
    let added = pb::Passkey { key: key.key(), relying_party: Some("https://example.org".into()) };
    assert_eq!(
        passkey.identifier.to_pb().kind,
        Some(pb::member_identifier::Kind::Passkey(added)),
        "where a passkey is used is told by its signature"
    );

    let without = valid(Some(&state), &update(&id, vec![revoke(&key.identifier(), &owner)]));
    assert!(without.member(&tablet.identifier()).is_none(), "it was the passkey's installation");
    assert!(without.member(&phone_id).is_some());
    let difference = without.difference(Some(&state));
    assert_eq!((difference.new_members.len(), difference.removed_members.len()), (0, 2));
    assert_eq!(state.difference(None).new_members.len(), 4);
}

#[test]
fn only_installations_leave_with_the_member_that_added_them() {
    let (owner, second, phone) = (wallet(1), wallet(2), installation(3));
    let (id, state) = inbox();
    let actions =
        vec![add(&phone.identifier(), &owner, &phone), add(&second.identifier(), &phone, &second)];
    let state = valid(Some(&state), &update(&id, actions));
    let state = valid(Some(&state), &update(&id, vec![revoke(&phone.identifier(), &owner)]));
    assert!(state.member(&second.identifier()).is_some());
}

/// Installations are removed one by one, or in a pass over all members if at least half of these leave.
#[test]
fn many_installations_leave_with_their_adder_as_a_few_do() {
    let (owner, second) = (wallet(1), wallet(2));
    let (id, founded) = inbox();
    let phones = |from: u8, count: u8| (from..from + count).map(installation);
    // Returns the weight that the inbox loses with the second account and so many installations of it.
    let weight_of = |of_second: u8, of_owner: u8| {
        let mut actions = vec![add(&second.identifier(), &owner, &second)];
        let by_second = |phone: common::Installation| add(&phone.identifier(), &second, &phone);
        let by_owner = |phone: common::Installation| add(&phone.identifier(), &owner, &phone);
        actions.extend(phones(10, of_second).map(by_second));
        actions.extend(phones(100, of_owner).map(by_owner));
        let before = valid(Some(&founded), &update(&id, actions));
        let revoked = update(&id, vec![revoke(&second.identifier(), &owner)]);
        let after = valid(Some(&before), &revoked);
        let left: Vec<_> = after.members().map(|member| member.identifier.clone()).collect();
        let owned = phones(100, of_owner).map(|phone| phone.identifier());
        let mut expected: Vec<_> = owned.chain([owner.identifier()]).collect();
        expected.sort();
        assert_eq!(left, expected, "{of_second} and {of_owner}");
        let all = update(&id, vec![revoke(&owner.identifier(), &owner)]);
        assert_eq!(valid(Some(&after), &all).members().count(), 0);
        before.weight() - after.weight()
    };
    let of_one = weight_of(2, 30) - weight_of(1, 30);
    for (more, fewer, of_owner) in [(21, 20, 0), (21, 20, 9), (4, 3, 1), (9, 8, 7)] {
        assert_eq!(weight_of(more, of_owner) - weight_of(fewer, of_owner), of_one, "{more}");
    }
}

#[test]
fn a_passkey_founds_an_inbox() {
    let key = passkey(9);
    let id = key.identifier().inbox_id(5);
    let state = valid(None, &update(&id, vec![create(&key.identifier(), 5, &key)]));
    assert_eq!(state.recovery(), &key.identifier());
    let travels = state.to_pb();
    assert_eq!(travels.recovery_identifier, hex::encode(key.key()));
    assert_eq!(travels.recovery_identifier_kind(), pb::IdentifierKind::Passkey);
    let phone = installation(2);
    let state = valid(Some(&state), &update(&id, vec![add(&phone.identifier(), &key, &phone)]));
    assert_eq!(state.to_pb().members.len(), 2);
}

#[test]
fn the_recovery_identifier_adds_and_revokes_without_being_a_member() {
    let (owner, recovery, phone) = (wallet(1), wallet(2), installation(3));
    let (id, state) = inbox();
    let change = vec![change_recovery(&recovery.identifier(), &owner)];
    let state = valid(Some(&state), &update(&id, change));
    assert!(state.member(&recovery.identifier()).is_none());
    let state =
        valid(Some(&state), &update(&id, vec![add(&phone.identifier(), &recovery, &phone)]));
    assert_eq!(
        state.member(&phone.identifier()).unwrap().added_by,
        Some(recovery.identifier()),
        "the recovery identifier brought it in"
    );
    let state = valid(Some(&state), &update(&id, vec![revoke(&owner.identifier(), &recovery)]));
    assert!(state.member(&owner.identifier()).is_none());
}

#[test]
fn revoking_an_absent_member_changes_nothing() {
    let (id, state) = inbox();
    let stranger = wallet(77).identifier();
    let after = valid(Some(&state), &update(&id, vec![revoke(&stranger, &wallet(1))]));
    assert!(after.members().eq(state.members()));
}

#[test]
fn a_legacy_key_founds_the_inbox_of_its_wallet_with_nonce_0() {
    let owner = wallet(1);
    let key = delegate(&owner, 50);
    let id = owner.identifier().inbox_id(0);
    let state = valid(None, &update(&id, vec![create(&owner.identifier(), 0, &key)]));
    assert!(state.member(&owner.identifier()).is_some());
}

#[test]
fn a_contract_wallet_waits_for_its_chain_and_does_as_the_chain_says() {
    let account = MemberIdentifier::Ethereum("0x00000000000000000000000000000000000000aa".into());
    let sign = |_: &str| {
        contract_signature("eip155:8453:0x00000000000000000000000000000000000000AA", 7, &[1, 2])
    };
    let id = account.inbox_id(1);
    let founding = update(&id, vec![create(&account, 1, common::by(sign))]);
    let UpdateJudgement::Waiting(questions) = judge(None, &founding, |_| None) else {
        panic!("the answer is not known yet")
    };
    let [question] = &questions[..] else { panic!("{questions:?}") };
    assert_eq!((question.chain_id, question.block_number), (8453, 7));
    assert_eq!(MemberIdentifier::of_address(question.address), account);
    assert_eq!(&question.signature[..], [1, 2]);

    let UpdateJudgement::Invalid(error) = judge(None, &founding, |_| Some(false)) else {
        panic!("the wallet did not agree")
    };
    assert!(error.to_string().contains("Signature validation failed"), "{error}");

    let UpdateJudgement::Valid(state) = judge(None, &founding, |_| Some(true)) else {
        panic!("the wallet agreed")
    };
    assert_eq!(state.member(&account).unwrap().chain_id, Some(8453));
    assert_eq!(fold_trusted(None, [&founding]).unwrap(), Some(state), "no wallet is asked again");
}

#[test]
fn a_state_weighs_what_it_keeps_and_keeps_nothing_longer_alive() {
    let account = MemberIdentifier::Ethereum("0x00000000000000000000000000000000000000aa".into());
    let sign = |_: &str| {
        let id = "eip155:8453:0x00000000000000000000000000000000000000aa";
        contract_signature(id, 7, &[1; 30_000])
    };
    let mut founding = update(&account.inbox_id(1), vec![create(&account, 1, common::by(sign))]);
    let UpdateJudgement::Valid(state) = judge(None, &founding, |_| Some(true)) else { panic!() };
    assert!(state.weight() > 30_000, "{}", state.weight());
    let Some(pb::identity_action::Kind::CreateInbox(create)) = &mut founding.actions[0].kind else {
        panic!()
    };
    let signature = create.initial_identifier_signature.as_mut().unwrap();
    let Some(pb::signature::Signature::Erc6492(contract)) = &mut signature.signature else {
        panic!()
    };
    assert!(std::mem::take(&mut contract.signature).is_unique(), "the state has its own");
}

/// Returns the update by which a passkey, made for this site, founds an inbox.
fn founding_by(key: &common::PasskeyOwner, site: &str) -> pb::IdentityUpdate {
    let site = site.to_owned();
    let founding = create(&key.identifier(), 5, key).with(move |kind| {
        if let pb::identity_action::Kind::CreateInbox(create) = kind {
            create.relying_party = Some(site.clone());
        }
    });
    update(&key.identifier().inbox_id(5), vec![founding])
}

/// An update can give the site any length, and each member that the passkey adds names it.
#[test]
fn the_site_of_a_passkey_is_kept_once_however_many_members_it_adds() {
    const SITE_LEN_BYTES: usize = 100_000;
    let key = passkey(9);
    let founding = founding_by(&key, &"s".repeat(SITE_LEN_BYTES));
    let phones = [2, 3, 4].map(installation);
    let adding = phones.iter().map(|phone| add(&phone.identifier(), &key, phone)).collect();
    let adding = update(&founding.inbox_id, adding);
    let state = valid(Some(&valid(None, &founding)), &adding);
    let site = |identifier: &MemberIdentifier| match identifier {
        MemberIdentifier::Passkey(passkey) => passkey.relying_party.as_deref().map(str::as_ptr),
        other => panic!("{other:?}"),
    };
    let own = site(&state.member(&key.identifier()).unwrap().identifier);
    assert!(own.is_some());
    assert_eq!(site(state.recovery()), own);
    for phone in &phones {
        let added = state.member(&phone.identifier()).unwrap();
        assert_eq!(site(added.added_by.as_ref().unwrap()), own);
    }
    // The wire form has it twice for the passkey, once for each phone, and once for the recovery identifier.
    let (least, len) = (state.wire_len_min(), state.to_pb().encoded_len());
    assert!((5 * SITE_LEN_BYTES..=len).contains(&least), "{least} of {len}");
}

/// Updates that wait for a contract wallet are kept with what they bring, and weights bound the memory for them.
#[test]
fn a_change_weighs_the_inbox_and_the_recovery_identifier_that_it_brings() {
    let (id, state) = inbox();
    let long = MemberIdentifier::Ethereum("x".repeat(10_000));
    let change = update(&id, vec![change_recovery(&long, &wallet(1))]);
    assert!(check(Some(&state), &change).unwrap().weight() > 10_000);
    let founding = founding_by(&passkey(9), &"s".repeat(10_000));
    assert!(check(None, &founding).unwrap().weight() > 10_000);
}

/// A node can make up a log. Each member that it adds could otherwise have a copy of a text of any length.
#[test]
fn a_trusted_log_has_no_account_that_cannot_sign() {
    let (owner, phone) = (wallet(1), installation(2));
    let (id, state) = inbox();
    let named = MemberIdentifier::Ethereum("0x".repeat(50));
    let leaving = vec![revoke(&owner.identifier(), &owner), change_recovery(&named, &owner)];
    let state = valid(Some(&state), &update(&id, leaving));
    assert_eq!((state.members().count(), state.recovery()), (0, &named));
    let adding = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);
    assert!(add_trusted(&mut Some(state), &adding).is_err(), "no signature is that account's");
}

#[test]
fn wallets_are_asked_only_when_their_answer_decides() {
    let (id, state) = inbox();
    let account = "eip155:1:0x00000000000000000000000000000000000000aa";
    let sign = |_: &str| contract_signature(account, 7, &[1]);
    let member = MemberIdentifier::Ethereum("0x00000000000000000000000000000000000000aa".into());
    let stranger = wallet(66);
    let hopeless = update(&id, vec![add(&member, &stranger, common::by(sign))]);
    let judgement = judge(Some(&state), &hopeless, |question| panic!("asked {question:?}"));
    assert!(matches!(judgement, UpdateJudgement::Invalid(_)), "{judgement:?}");
}

#[test]
fn a_trusted_log_with_several_wallets_knows_who_added_whom() {
    let (owner, second, phone, tablet) = (wallet(1), wallet(2), installation(3), installation(4));
    let (id, founded) = inbox();
    let log = [
        update(&id, vec![create(&owner.identifier(), 1, &owner)]),
        update(&id, vec![add(&second.identifier(), &owner, &second)]),
        update(&id, vec![add(&phone.identifier(), &second, &phone)]),
        update(&id, vec![change_recovery(&wallet(9).identifier(), &owner)]),
        update(&id, vec![add(&tablet.identifier(), &wallet(9), &tablet)]),
        update(&id, vec![revoke(&second.identifier(), &wallet(9))]),
    ];
    let judged = log[1..].iter().fold(founded, |state, update| valid(Some(&state), update));
    assert!(judged.member(&phone.identifier()).is_none());
    assert!(judged.member(&tablet.identifier()).is_some());
    assert_eq!(fold_trusted(None, &log).unwrap(), Some(judged));
}

/// Finding a signer costs as much as a kilobyte or two of the log, which a reader of the log has to bound.
#[test]
fn a_trusted_update_says_how_many_signers_it_had_to_find() {
    let (owner, second, phone) = (wallet(1), wallet(2), installation(3));
    let (id, _) = inbox();
    let log = [
        update(&id, vec![create(&owner.identifier(), 1, &owner)]),
        update(&id, vec![add(&second.identifier(), &owner, &second)]),
        update(&id, vec![add(&phone.identifier(), &second, &phone)]),
        update(&id, vec![revoke(&second.identifier(), &owner)]),
    ];
    let mut state = None;
    let found = log.map(|update| add_trusted(&mut state, &update).unwrap());
    assert_eq!(found, [0, 0, 1, 0], "two accounts can have signed the third one");
}

#[test]
fn a_trusted_update_that_is_applied_in_steps_leads_to_the_same_state() {
    let (id, before) = inbox();
    let (owner, second, phone) = (wallet(1), wallet(2), installation(3));
    let long = update(
        &id,
        vec![
            add(&second.identifier(), &owner, &second),
            add(&phone.identifier(), &second, &phone),
            revoke(&second.identifier(), &owner),
            add(&wallet(4).identifier(), &owner, &wallet(4)),
        ],
    );
    let expected = valid(Some(&before), &long);
    assert!(expected.member(&phone.identifier()).is_none(), "it left with its adder");
    for step in 1..6 {
        let (mut steps, mut state) = (TrustedUpdate::begin(&long).unwrap(), Some(before.clone()));
        while steps.apply_next(state.as_ref(), step).unwrap() == step {}
        assert_eq!(state.as_ref(), Some(&before), "it is applied as a whole");
        steps.finish(&mut state).unwrap();
        assert_eq!(state.as_ref(), Some(&expected), "steps of {step}");
    }
}

/// Gateways apply a long update in steps, and nodes at once: both have to find the same error first.
#[test]
fn a_trusted_update_in_steps_is_refused_for_the_same_reason_as_at_once() {
    let (id, before) = inbox();
    let (owner, second, phone) = (wallet(1), wallet(2), installation(3));
    let add_second = || add(&second.identifier(), &owner, &second);
    let add_phone = || add(&phone.identifier(), &second, &phone);
    let by_phone = || revoke(&owner.identifier(), &phone);
    let unsigned = revoke(&phone.identifier(), &owner).with(|kind| {
        if let pb::identity_action::Kind::Revoke(revoke) = kind {
            revoke.recovery_identifier_signature = None;
        }
    });
    let spoilt = [
        (update(&id, vec![add_second(), add_phone(), by_phone(), by_phone()]), Some(2)),
        // A malformed action is found before any rule of the inbox.
        (update(&id, vec![add_second(), by_phone(), add_phone(), unsigned]), Some(3)),
        (update(&second.identifier().inbox_id(1), vec![add_second(), add_phone()]), None),
    ];
    for (update, action) in &spoilt {
        let mut state = Some(before.clone());
        let at_once = add_trusted(&mut state, update).unwrap_err();
        assert_eq!((at_once.action, state.as_ref()), (*action, Some(&before)));
        for step in 1..6 {
            let in_steps = TrustedUpdate::begin(update).and_then(|mut steps| {
                while steps.apply_next(state.as_ref(), step)? == step {}
                steps.finish(&mut state)
            });
            assert_eq!(in_steps.unwrap_err(), at_once, "steps of {step}");
            assert_eq!(state.as_ref(), Some(&before));
        }
    }
}

/// An inbox may have a hundred thousand contract wallets, which are not gone through for each action of its log.
#[test]
fn only_accounts_with_keys_can_have_signed_with_one() {
    let (owner, second, phone) = (wallet(1), wallet(2), installation(3));
    let (id, _) = inbox();
    let name = format!("eip155:1:{}", second.identifier());
    let as_contract = common::by(move |_: &str| contract_signature(&name, 7, &[1]));
    let add_phone = || add(&phone.identifier(), &owner, &phone);
    let log = [
        vec![create(&owner.identifier(), 1, &owner)],
        vec![add(&second.identifier(), &owner, as_contract)],
        vec![add_phone()],
        // With a second action, because a signature of the same text would be a replay.
        vec![add(&second.identifier(), &owner, &second), revoke(&wallet(9).identifier(), &owner)],
        vec![add_phone(), revoke(&second.identifier(), &owner)],
        vec![add_phone(), revoke(&phone.identifier(), &owner)],
    ];
    let mut state = None;
    let found = log.map(|actions| add_trusted(&mut state, &update(&id, actions)).unwrap());
    assert_eq!(found, [0, 0, 0, 0, 1, 0], "a second account with a key was a member once");
}
