//! Known encodings of identifiers, times and contract wallets.

use hawser_mls::identity::MemberIdentifier;
use hawser_proto::pb::xmtp::identity::associations as pb;
use pb::identity_action::Kind;

use super::cases::{Cases, signed};
use super::forms::{add_act, inbox_ids};
use crate::common::*;

pub(crate) fn identifiers(cases: &mut Cases) {
    let owner = wallet(1);
    let (id, nonce) = &inbox_ids()[1];
    let plain = owner.text();
    let spellings = [
        plain.clone(),
        plain.to_uppercase(),
        format!("0x{}", plain[2..].to_uppercase()),
        plain[2..].to_owned(),
        format!("0X{}", &plain[2..]),
        format!(" {plain}"),
        format!("{plain} "),
        format!("{plain}00"),
        plain[..40].to_owned(),
        String::new(),
        "0x".into(),
        "xyz".into(),
        "ä".into(),
        "a\nb".into(),
        "x".repeat(10_000),
    ];
    for (place, spelling) in spellings.iter().enumerate() {
        spelled(cases, &format!("spelling {place}"), spelling);
    }
    kinds(cases);
    for spelled in [id.to_uppercase(), format!("0x{id}"), id[..63].to_owned(), format!("{id}0")] {
        let founds = create(&owner.identifier(), *nonce, &owner);
        cases.case(format!("inbox {spelled}"), "nothing", &signed(&spelled, TIME_NS, &[founds]));
    }
    for nonce in [0, 1, 2, 9, 10, u64::MAX / 2, u64::MAX] {
        let inbox = owner.identifier().inbox_id(nonce);
        let founds = create(&owner.identifier(), nonce, &owner);
        cases.case(format!("nonce {nonce}"), "nothing", &signed(&inbox, TIME_NS, &[founds]));
    }
}
fn spelled(cases: &mut Cases, name: &str, spelling: &str) {
    let owner = wallet(1);
    let (id, nonce) = &inbox_ids()[1];
    let account = MemberIdentifier::Ethereum(spelling.to_owned());
    let own = account.inbox_id(*nonce);
    for inbox in [&own, id] {
        let founds = create(&account, *nonce, &owner);
        cases.case(format!("{name} founds"), "nothing", &signed(inbox, TIME_NS, &[founds]));
    }
    let joins = add_act(&account, &owner, &wallet(8));
    cases.case(format!("{name} joins"), "family 1", &signed(id, TIME_NS, &[joins]));
    let leaves = revoke(&account, &owner);
    cases.case(format!("{name} leaves"), "family 1", &signed(id, TIME_NS, &[leaves]));
    let recovers = change_recovery(&account, &owner);
    cases.case(format!("{name} recovers"), "family 1", &signed(id, TIME_NS, &[recovers]));
    let recovers = vec![change_recovery(&account, &owner), revoke(&owner.identifier(), &owner)];
    cases.case(format!("{name} recovers and revokes"), "family 1", &signed(id, TIME_NS, &recovers));
    let inbox_id = spelling.to_owned();
    let adds = add_act(&installation(9).identifier(), &owner, &installation(9));
    cases.case(format!("{name} as inbox"), "family 1", &signed(&inbox_id, TIME_NS, &[adds]));
}

/// Adds identifiers of every kind in the two fields that state the kind separately.
fn kinds(cases: &mut Cases) {
    let owner = wallet(1);
    let (id, nonce) = &inbox_ids()[1];
    for kind in [-1, 0, 1, 2, 3, 99] {
        let founds = create(&owner.identifier(), *nonce, &owner).with(move |action| {
            let Kind::CreateInbox(create) = action else { panic!() };
            create.initial_identifier_kind = kind;
        });
        cases.case(format!("founder of kind {kind}"), "nothing", &signed(id, TIME_NS, &[founds]));
        let recovers = change_recovery(&wallet(3).identifier(), &owner).with(move |action| {
            let Kind::ChangeRecoveryAddress(change) = action else { panic!() };
            change.new_recovery_identifier_kind = kind;
        });
        cases.case(
            format!("recovery of kind {kind}"),
            "family 1",
            &signed(id, TIME_NS, &[recovers]),
        );
        let key = passkey(4);
        let founds = create(&key.identifier(), *nonce, &key).with(move |action| {
            let Kind::CreateInbox(create) = action else { panic!() };
            create.initial_identifier_kind = kind;
            create.relying_party = Some("o".into());
        });
        let inbox = key.identifier().inbox_id(*nonce);
        cases.case(
            format!("passkey founder of kind {kind}"),
            "nothing",
            &signed(&inbox, TIME_NS, &[founds]),
        );
        let recovers = change_recovery(&key.identifier(), &owner).with(move |action| {
            let Kind::ChangeRecoveryAddress(change) = action else { panic!() };
            change.new_recovery_identifier_kind = kind;
        });
        cases.case(
            format!("passkey recovery of kind {kind}"),
            "family 1",
            &signed(id, TIME_NS, &[recovers]),
        );
    }
}

pub(crate) fn times(cases: &mut Cases) {
    let owner = wallet(1);
    let (id, _) = &inbox_ids()[1];
    let times = [
        0,
        1,
        999_999_999,
        1_000_000_000,
        951_782_400_000_000_000,
        951_868_799_999_999_999,
        4_107_542_400_000_000_000,
        (1 << 63) - 1,
        1 << 63,
        (1 << 63) + 1,
        u64::MAX - 999_999_999,
        u64::MAX - 1_000_000_000,
        u64::MAX,
        TIME_NS - 1,
        TIME_NS + 999_999_999,
        253_402_300_799_000_000,
    ];
    for time in times {
        let adds = add_act(&installation(9).identifier(), &owner, &installation(9));
        cases.case(format!("time {time}"), "family 1", &signed(id, time, &[adds]));
    }
    cases.case("no action", "family 1", &signed(id, TIME_NS, &[]));
    cases.case("no action and no inbox", "nothing", &signed(id, TIME_NS, &[]));
    let mut unknown = signed(id, TIME_NS, &[]);
    unknown.actions.push(pb::IdentityAction { kind: None });
    cases.case("an unknown action", "family 1", &unknown);
}

pub(crate) fn contract_wallets(cases: &mut Cases) {
    let owner = wallet(1);
    let (id, _) = &inbox_ids()[1];
    let plain = "0x00000000000000000000000000000000000000aa";
    let accounts = [
        format!("eip155:1:{plain}"),
        format!("eip155:1:{}", &plain[2..]),
        format!("eip155:1:{}", plain.to_uppercase().replace("0X", "0x")),
        format!("eip155:8453:{plain}"),
        format!("eip155:0:{plain}"),
        format!("eip155:01:{plain}"),
        format!("eip155:+1:{plain}"),
        format!("eip155: 1:{plain}"),
        format!("eip155:18446744073709551615:{plain}"),
        format!("eip155:18446744073709551616:{plain}"),
        format!("eip155:1:{plain}:x"),
        format!("eip155:{plain}"),
        format!("EIP155:1:{plain}"),
        format!("solana:1:{plain}"),
        format!("1:{plain}"),
        format!("eip155:1:{plain}0"),
        format!("eip155:1:{}", &plain[..41]),
        format!("eip155:1:{}z", &plain[..41]),
        "eip155:1:".into(),
        "eip155::".into(),
        plain.into(),
        String::new(),
    ];
    for account in accounts {
        for first in [0, 1] {
            let sign = || {
                let account = account.clone();
                by(move |_| contract_signature(&account, 7, &[first; 65]))
            };
            let name = format!("contract {account} {first}");
            for member in [plain, &plain[2..]] {
                let member = MemberIdentifier::Ethereum(member.to_owned());
                let joins = add_act(&member, &owner, sign());
                cases.case(format!("{name} joins"), "family 1", &signed(id, TIME_NS, &[joins]));
                let founds = create(&member, 3, sign());
                let inbox = member.inbox_id(3);
                cases.case(
                    format!("{name} founds"),
                    "nothing",
                    &signed(&inbox, TIME_NS, &[founds]),
                );
            }
        }
    }
}
