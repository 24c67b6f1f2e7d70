//! Invalid identity updates, each with the phrase by which clients recognize it. None of them changes the state.

use bytes::Bytes;
use hawser_mls::identity::{MemberIdentifier, UpdateJudgement, fold_trusted, judge};
use hawser_proto::pb::xmtp::identity::associations as pb;
use pb::signature::Signature as Signed;
use proptest::prelude::*;

use crate::common::{
    add, by, change_recovery, contract_signature, create, delegate, erc_191, high_s, high_twin,
    inbox, installation, other_form, passkey, refused, revoke, update, valid, wallet,
};

#[track_caller]
fn assert_says(text: &str, phrase: &str) {
    assert!(text.contains(phrase), "{text:?} does not say {phrase:?}");
}

#[test]
fn an_inbox_is_created_once_and_first() {
    let owner = wallet(1);
    let account = owner.identifier();
    let (id, state) = inbox();
    let phone = installation(2);
    let once = || create(&account, 1, &owner);
    let with = |actions| update(&id, actions);
    assert_says(&refused(Some(&state), &with(vec![once()])), "Multiple create operations detected");
    assert_says(&refused(None, &with(vec![once(), once()])), "Multiple create operations detected");
    let early = with(vec![add(&phone.identifier(), &owner, &phone), once()]);
    assert_says(&refused(None, &early), "XID not yet created");
    for action in [revoke(&account, &owner), change_recovery(&account, &owner)] {
        assert_says(&refused(None, &with(vec![action])), "XID not yet created");
    }
    assert_says(&refused(None, &with(vec![])), "XID not yet created");
}

#[test]
fn the_founder_signs() {
    let (owner, other) = (wallet(1), wallet(2));
    let id = owner.identifier().inbox_id(1);
    let founding = update(&id, vec![create(&owner.identifier(), 1, &other)]);
    assert_says(&refused(None, &founding), "Missing existing member");
    let key = delegate(&owner, 50);
    let founding = update(&id, vec![create(&owner.identifier(), 1, &key)]);
    assert_says(&refused(None, &founding), "Legacy key is only allowed");
}

#[test]
fn an_update_names_its_own_inbox() {
    let owner = wallet(1);
    let (id, state) = inbox();
    for other in [owner.identifier().inbox_id(2), id.to_uppercase(), String::new()] {
        let founding = update(&other, vec![create(&owner.identifier(), 1, &owner)]);
        assert_says(&refused(None, &founding), "Wrong inbox_id specified on association");
        let later = update(&other, vec![revoke(&wallet(9).identifier(), &owner)]);
        assert_says(&refused(Some(&state), &later), "Wrong inbox_id specified on association");
    }
}

#[test]
fn an_added_member_needs_a_member_and_its_own_consent() {
    let (owner, stranger, phone) = (wallet(1), wallet(66), installation(2));
    let (id, state) = inbox();
    for (action, phrase) in [
        (add(&phone.identifier(), &stranger, &phone), "Missing existing member"),
        (
            add(&phone.identifier(), &owner, &installation(3)),
            "The new member identifier does not match the signer",
        ),
        (
            add(&stranger.identifier(), &owner, &phone),
            "The new member identifier does not match the signer",
        ),
        (add(&owner.identifier(), &owner, &owner), "Error creating association"),
        (revoke(&owner.identifier(), &stranger), "Missing existing member"),
        (change_recovery(&stranger.identifier(), &stranger), "Missing existing member"),
    ] {
        assert_says(&refused(Some(&state), &update(&id, vec![action])), phrase);
    }
}

#[test]
fn installations_bring_in_no_installations_and_do_not_revoke() {
    let (owner, phone, tablet) = (wallet(1), installation(2), installation(3));
    let (id, state) = inbox();
    let state = valid(Some(&state), &update(&id, vec![add(&phone.identifier(), &owner, &phone)]));
    for (action, phrase) in [
        (add(&tablet.identifier(), &phone, &tablet), "not allowed to add"),
        (revoke(&owner.identifier(), &phone), "Missing existing member"),
        (change_recovery(&phone.identifier(), &phone), "Missing existing member"),
    ] {
        assert_says(&refused(Some(&state), &update(&id, vec![action])), phrase);
    }
}

#[test]
fn members_that_were_revoked_have_nothing_more_to_say() {
    let (owner, phone, key) = (wallet(1), installation(2), passkey(3));
    let (id, state) = inbox();
    let state = valid(Some(&state), &update(&id, vec![add(&phone.identifier(), &owner, &phone)]));
    let state = valid(Some(&state), &update(&id, vec![revoke(&phone.identifier(), &owner)]));
    let again = update(&id, vec![add(&key.identifier(), &phone, &key)]);
    assert_says(&refused(Some(&state), &again), "Missing existing member");
}

#[test]
fn an_account_is_written_in_lower_case_or_matches_no_signer() {
    let (owner, second) = (wallet(1), wallet(2));
    let (id, state) = inbox();
    let shouted = MemberIdentifier::Ethereum(second.text().to_uppercase().replace("0X", "0x"));
    let adding = update(&id, vec![add(&shouted, &owner, &second)]);
    assert_says(&refused(Some(&state), &adding), "does not match the signer");
}

#[test]
fn legacy_keys_speak_once_and_for_the_inbox_with_nonce_0_alone() {
    let (owner, phone) = (wallet(1), installation(2));
    let key = delegate(&owner, 50);
    let (id, state) = inbox();
    let adding = update(&id, vec![add(&phone.identifier(), &key, &phone)]);
    assert_says(&refused(Some(&state), &adding), "Legacy key is only allowed");

    let id = owner.identifier().inbox_id(0);
    let founded = valid(None, &update(&id, vec![create(&owner.identifier(), 0, &key)]));
    let adding = update(&id, vec![add(&phone.identifier(), &key, &phone)]);
    assert_says(&refused(Some(&founded), &adding), "Replay detected");
    let fresh = delegate(&owner, 51);
    for action in
        [revoke(&phone.identifier(), &fresh), change_recovery(&owner.identifier(), &fresh)]
    {
        let text = refused(Some(&founded), &update(&id, vec![action]));
        assert_says(&text, "Signature not allowed for role");
    }
    let (first, second) = (delegate(&owner, 52), delegate(&wallet(3), 53));
    let mixed = by(move |text: &str| {
        let (mut legacy, other) = (first.signature(text), second.signature(text));
        if let (Some(Signed::DelegatedErc191(mine)), Some(Signed::DelegatedErc191(theirs))) =
            (&mut legacy.signature, other.signature)
        {
            mine.signature = theirs.signature; // made with a key that this wallet did not delegate to
        }
        legacy
    });
    let founding = update(&id, vec![create(&owner.identifier(), 0, mixed)]);
    assert_says(&refused(None, &founding), "Signature validation failed");
}

#[test]
fn a_signature_serves_one_update() {
    let (owner, second) = (wallet(1), wallet(2));
    let (id, state) = inbox();
    let adding = update(&id, vec![add(&second.identifier(), &owner, &second)]);
    let state = valid(Some(&state), &adding);
    assert_says(&refused(Some(&state), &adding), "Replay detected");
    let state = valid(Some(&state), &update(&id, vec![revoke(&second.identifier(), &owner)]));
    assert_says(&refused(Some(&state), &adding), "Replay detected");

    // With the other s and the same v, it counts as the same signature.
    let mut twin = adding;
    let Some(pb::identity_action::Kind::Add(add)) = &mut twin.actions[0].kind else { panic!() };
    for signature in [&mut add.existing_member_signature, &mut add.new_member_signature] {
        let Some(Signed::Erc191(given)) = &signature.as_ref().unwrap().signature else { panic!() };
        *signature = Some(erc_191(high_s(&given.bytes)));
    }
    assert_says(&refused(Some(&state), &twin), "Replay detected");
}

#[test]
fn inside_one_update_a_signature_may_serve_several_actions() {
    let (owner, phone) = (wallet(1), installation(2));
    let id = owner.identifier().inbox_id(1);
    let actions =
        vec![create(&owner.identifier(), 1, &owner), add(&phone.identifier(), &owner, &phone)];
    let state = valid(None, &update(&id, actions));
    assert_eq!(state.members().count(), 2);
    assert_eq!(state.to_pb().seen_signatures.len(), 2);
}

#[test]
fn accounts_may_sign_with_either_s_and_any_way_of_writing_v() {
    let owner = wallet(1);
    let id = owner.identifier().inbox_id(1);
    let founding = |change: fn(Bytes) -> Bytes| {
        let signer = owner.clone();
        let sign = by(move |text: &str| erc_191(change(signer.sign(text))));
        update(&id, vec![create(&owner.identifier(), 1, sign)])
    };
    let bare = |bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        bytes[64] -= 27;
        Bytes::from(bytes)
    };
    // Clients bring s into the lower half and leave v. A signature with the other s and the other v is valid by
    // mathematics, but clients recover another account from it.
    valid(None, &founding(|bytes| high_s(&bytes)));
    let mirrored = founding(|bytes| high_twin(&bytes));
    assert_says(&refused(None, &mirrored), "Missing existing member");
    valid(None, &founding(bare));
    // EIP-155: v is 35 + 2 × chain id + recovery id.
    valid(None, &founding(|bytes| [&bytes[..64], &[bytes[64] + 8]].concat().into()));
    valid(None, &founding(|bytes| [&bytes[..64], &[bytes[64] + 226]].concat().into()));
    let wrong = founding(|bytes| [&bytes[..64], &[bytes[64] + 9]].concat().into());
    assert_says(&refused(None, &wrong), "Missing existing member");
    for broken in [
        founding(|bytes| bytes.slice(..64)),
        founding(|bytes| [&bytes[..], &[0]].concat().into()),
        founding(|bytes| [&bytes[..64], &[2]].concat().into()),
        founding(|bytes| [&bytes[..64], &[26]].concat().into()),
        founding(|bytes| [&bytes[..64], &[29]].concat().into()),
        founding(|bytes| [&bytes[..64], &[34]].concat().into()),
        founding(|_| vec![0; 65].into()),
        founding(|_| Bytes::new()),
    ] {
        assert_says(&refused(None, &broken), "Signature validation failed");
    }
}

#[test]
fn the_other_form_of_a_passkeys_signature_is_another_signature() {
    let (owner, key, phone) = (wallet(1), passkey(3), installation(2));
    let (id, state) = inbox();
    let adding = update(&id, vec![add(&key.identifier(), &owner, &key)]);
    let state = valid(Some(&state), &adding);
    let mut by_key = update(&id, vec![add(&phone.identifier(), &key, &phone)]);
    let once = valid(Some(&state), &by_key);
    assert_says(&refused(Some(&once), &by_key), "Replay detected");
    let Some(pb::identity_action::Kind::Add(add)) = &mut by_key.actions[0].kind else { panic!() };
    let Some(Signed::Passkey(mine)) =
        add.existing_member_signature.as_mut().and_then(|it| it.signature.as_mut())
    else {
        panic!()
    };
    mine.signature = other_form(&mine.signature);
    let after = valid(Some(&state), &by_key);
    assert_ne!(after.to_pb().seen_signatures, once.to_pb().seen_signatures);
}

#[test]
fn an_account_without_its_prefix_is_a_member_and_founds_nothing() {
    let (owner, wallet) = (wallet(1), "00000000000000000000000000000000000000aa");
    let (id, state) = inbox();
    let sign = move |block: u64| {
        let account = format!("eip155:1:{}", wallet.to_uppercase());
        by(move |_: &str| contract_signature(&account, block, &block.to_be_bytes()))
    };
    let bare = MemberIdentifier::Ethereum(wallet.into());
    let adding = update(&id, vec![add(&bare, &owner, sign(1))]);
    let UpdateJudgement::Valid(state) = judge(Some(&state), &adding, |_| Some(true)) else {
        panic!()
    };
    assert!(state.member(&bare).is_some());
    let prefixed = MemberIdentifier::Ethereum(format!("0x{wallet}"));
    let adding = update(&id, vec![add(&prefixed, &owner, sign(2))]);
    assert_says(&refused(Some(&state), &adding), "does not match the signer");
    let founding = update(&bare.inbox_id(1), vec![create(&bare, 1, sign(3))]);
    assert_says(&refused(None, &founding), "Invalid account address");
}

#[test]
fn signatures_over_other_texts_do_not_hold() {
    let (owner, phone, key) = (wallet(1), installation(2), passkey(3));
    let (id, state) = inbox();
    let other_context = by({
        let phone = phone.clone();
        move |text: &str| phone.signature_in(text, b"PUBLIC")
    });
    let other_text = by({
        let phone = phone.clone();
        move |text: &str| phone.signature(&format!("{text} "))
    });
    let other_challenge = by({
        let key = key.clone();
        move |text: &str| key.signature(&format!("{text} "))
    });
    for action in [
        add(&phone.identifier(), &owner, other_context),
        add(&phone.identifier(), &owner, other_text),
        add(&key.identifier(), &owner, other_challenge),
    ] {
        assert_says(
            &refused(Some(&state), &update(&id, vec![action])),
            "Signature validation failed",
        );
    }
    let mut later = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);
    later.client_timestamp_ns += 1_000_000_000;
    assert_says(&refused(Some(&state), &later), "Signature validation failed");
}

#[test]
fn a_wallet_keeps_its_chain_and_an_account_with_a_key_has_none() {
    let (id, state) = inbox();
    let owner = wallet(1).text();
    let phone = installation(2);
    let sign = move |chain: u64| {
        let account = format!("eip155:{chain}:{owner}");
        by(move |_: &str| contract_signature(&account, 1, &chain.to_be_bytes()))
    };
    let impostor = update(&id, vec![add(&phone.identifier(), sign(1), &phone)]);
    assert_says(&refused(Some(&state), &impostor), "Wrong chain id.");
    let impostor = update(&id, vec![revoke(&phone.identifier(), sign(1))]);
    assert_says(&refused(Some(&state), &impostor), "Wrong chain id.");

    let account = wallet(1).identifier();
    let id = account.inbox_id(3);
    let founding = update(&id, vec![create(&account, 3, sign(8453))]);
    let UpdateJudgement::Valid(state) = judge(None, &founding, |_| Some(true)) else { panic!() };
    let elsewhere = update(&id, vec![add(&phone.identifier(), sign(1), &phone)]);
    assert_says(&refused(Some(&state), &elsewhere), "Wrong chain id.");
    let with_key = update(&id, vec![add(&phone.identifier(), &wallet(1), &phone)]);
    assert_says(&refused(Some(&state), &with_key), "Wrong chain id.");
}

#[test]
fn unreadable_bytes_are_no_update() {
    let (id, state) = inbox();
    let (owner, phone) = (wallet(1), installation(2));
    let good = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);
    let with = |change: &dyn Fn(&mut pb::AddAssociation)| {
        let mut update = good.clone();
        let Some(pb::identity_action::Kind::Add(add)) = &mut update.actions[0].kind else {
            panic!()
        };
        change(add);
        refused(Some(&state), &update)
    };
    let contract = |account: &str| {
        let account = account.to_owned();
        move |add: &mut pb::AddAssociation| {
            add.existing_member_signature = Some(contract_signature(&account, 1, &[]));
        }
    };
    for (text, phrase) in [
        (with(&|add| add.new_member_identifier = None), "Deserialization error"),
        (with(&|add| add.existing_member_signature = None), "Deserialization error"),
        (with(&|add| add.new_member_signature = Some(pb::Signature::default())), "Deserialization"),
        (with(&contract("eip155:1")), "Deserialization error"),
        (with(&contract("solana:1:abc")), "Deserialization error"),
        (
            with(&contract("eip155:01:0x00000000000000000000000000000000000000aa")),
            "Deserialization",
        ),
        (with(&contract("eip155:1:0x00")), "Invalid account address: Must be 42 hex characters"),
    ] {
        assert_says(&text, phrase);
    }
    let mut empty = good.clone();
    empty.actions[0].kind = None;
    assert_says(&refused(Some(&state), &empty), "Deserialization error");
}

#[test]
fn an_update_whose_last_action_fails_does_nothing() {
    let (owner, phone, stranger) = (wallet(1), installation(2), wallet(66));
    let (id, state) = inbox();
    let half = update(
        &id,
        vec![add(&phone.identifier(), &owner, &phone), revoke(&owner.identifier(), &stranger)],
    );
    let before = state.clone();
    assert_says(&refused(Some(&state), &half), "(action 1)");
    assert_eq!(state, before);
    // The signatures of a refused update are not used up.
    let alone = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);
    valid(Some(&state), &alone);
}

fn history() -> Vec<pb::IdentityUpdate> {
    let (owner, second, phone, key) = (wallet(1), wallet(2), installation(3), passkey(4));
    let id = owner.identifier().inbox_id(0);
    let legacy = delegate(&owner, 50);
    let contract = MemberIdentifier::Ethereum("0x00000000000000000000000000000000000000aa".into());
    let sign = |_: &str| {
        contract_signature("eip155:1:0x00000000000000000000000000000000000000aa", 7, &[1, 2])
    };
    vec![
        update(&id, vec![create(&owner.identifier(), 0, &legacy)]),
        update(&id, vec![add(&phone.identifier(), &owner, &phone)]),
        update(
            &id,
            vec![
                add(&second.identifier(), &phone, &second),
                add(&key.identifier(), &second, &key),
                add(&contract, &owner, by(sign)),
            ],
        ),
        update(&id, vec![change_recovery(&second.identifier(), &owner)]),
        update(&id, vec![revoke(&phone.identifier(), &second)]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// For every change of an update's bytes: the update gets a verdict, an invalid one leaves the state unchanged,
    /// and the trusted fold returns the judged state.
    #[test]
    fn changed_updates_are_judged_and_leave_nothing_behind(
        which in 0..5usize,
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        cut in any::<bool>(),
    ) {
        use prost::Message as _;

        let log = history();
        let mut bytes = log[which].encode_to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = with }
        let mut state = None;
        let mut held = Vec::new();
        for update in &log[..which] {
            let UpdateJudgement::Valid(after) = judge(state.as_ref(), update, |_| Some(true)) else {
                panic!("the history holds")
            };
            state = Some(after);
            held.push(update.clone());
        }
        let before = state.clone();
        if let Ok(changed) = pb::IdentityUpdate::decode(Bytes::from(bytes)) {
            match judge(state.as_ref(), &changed, |_| Some(true)) {
                UpdateJudgement::Valid(after) => {
                    held.push(changed);
                    prop_assert_eq!(fold_trusted(None, &held).unwrap(), Some(after));
                }
                UpdateJudgement::Invalid(_) => {
                    let UpdateJudgement::Valid(_) = judge(state.as_ref(), &log[which], |_| Some(true))
                    else {
                        panic!("the unchanged update still holds")
                    };
                }
                UpdateJudgement::Waiting(questions) => panic!("{questions:?} were answered"),
            }
        }
        prop_assert_eq!(state, before);
    }
}
