//! The parameter registries: permissions, values and reads.

use alloy::primitives::{Address, B256, U256, keccak256};
use hawser_chain::contracts::SettlementChainParameterRegistry::{
    ArrayLengthMismatch, EmptyAdmins, NoKeys, NotAdmin, ParameterSet, ZeroAdmin,
    adminParameterKeyCall, get_0Call, get_1Call, initializeCall, isAdminCall, set_0Call, set_1Call,
};

use crate::harness::actors::{Caller as _, actor, admin, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;
use crate::harness::test_chain::TestChain;

on_both_chains! {
    admins_set_parameters_one_by_one_and_many_at_once
    the_last_of_equal_keys_stays
    unset_parameters_are_zero
    only_admins_set_parameters
    lists_must_match
    any_value_but_zero_makes_an_admin
    without_admins_nothing_can_be_set_any_more
    a_registry_begins_with_admins
}

/// Both registries have one interface.
fn registries(w: &TestNetwork) -> [Address; 2] {
    [w.at.params, w.at.app_params]
}

fn set(key: &str, value: u64) -> set_0Call {
    set_0Call { key_: key.to_owned(), value_: word(value) }
}

fn set_all(keys: &[&str], values: &[u64]) -> set_1Call {
    set_1Call { keys_: texts(keys), values_: values.iter().copied().map(word).collect() }
}

fn texts(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn word(value: u64) -> B256 {
    U256::from(value).into()
}

fn event(key: &str, value: u64) -> ParameterSet {
    ParameterSet { keyHash: keccak256(key), key: key.to_owned(), value: word(value) }
}

async fn value(net: &TestChain, registry: Address, key: &str) -> B256 {
    net.read(registry, get_0Call { key_: key.to_owned() }).await
}

async fn admin_key(net: &TestChain, registry: Address, account: Address) -> String {
    format!("{}.{account:#x}", net.read(registry, adminParameterKeyCall {}).await)
}

async fn admins_set_parameters_one_by_one_and_many_at_once(w: &TestNetwork) {
    for registry in registries(w) {
        let receipt = w.send(admin().calls(registry, set("a.b", 1))).await;
        assert_eq!(receipt.events::<ParameterSet>(registry), [event("a.b", 1)]);
        let receipt = w.send(admin().calls(registry, set_all(&["a.c", ""], &[2, 3]))).await;
        assert_eq!(receipt.events::<ParameterSet>(registry), [event("a.c", 2), event("", 3)]);

        assert_eq!(value(w, registry, "a.b").await, word(1));
        let keys_ = texts(&["", "a.c", "a.b"]);
        let values = w.read(registry, get_1Call { keys_ }).await;
        assert_eq!(values, [word(3), word(2), word(1)]);
    }
}

async fn the_last_of_equal_keys_stays(w: &TestNetwork) {
    for registry in registries(w) {
        let receipt = w.send(admin().calls(registry, set_all(&["k", "k"], &[1, 2]))).await;
        assert_eq!(receipt.events::<ParameterSet>(registry), [event("k", 1), event("k", 2)]);
        assert_eq!(value(w, registry, "k").await, word(2));
    }
}

async fn unset_parameters_are_zero(w: &TestNetwork) {
    for registry in registries(w) {
        assert_eq!(value(w, registry, "nothing").await, B256::ZERO);
        let call = get_1Call { keys_: texts(&["nothing", "more"]) };
        assert_eq!(w.read(registry, call).await, [B256::ZERO; 2]);
    }
}

async fn only_admins_set_parameters(w: &TestNetwork) {
    for registry in registries(w) {
        let is_admin = |account_| w.read(registry, isAdminCall { account_ });
        assert!(is_admin(admin().address()).await);
        assert!(!is_admin(anyone().address()).await);
        w.refuse_all([
            (anyone().calls(registry, set("k", 1)), NotAdmin {}.into()),
            (anyone().calls(registry, set_all(&["k"], &[1])), NotAdmin {}.into()),
            // The contract checks the sender before the arguments.
            (anyone().calls(registry, set_all(&[], &[])), NotAdmin {}.into()),
        ])
        .await;
    }
}

async fn lists_must_match(w: &TestNetwork) {
    for registry in registries(w) {
        w.refuse_all([
            (admin().calls(registry, set_all(&[], &[])), NoKeys {}.into()),
            (admin().calls(registry, set_all(&[], &[1])), NoKeys {}.into()),
            (admin().calls(registry, set_all(&["k"], &[])), ArrayLengthMismatch {}.into()),
            (admin().calls(registry, set_all(&["k"], &[1, 2])), ArrayLengthMismatch {}.into()),
            (anyone().calls(registry, get_1Call { keys_: vec![] }), NoKeys {}.into()),
        ])
        .await;
    }
}

async fn any_value_but_zero_makes_an_admin(w: &TestNetwork) {
    let newcomer = actor("newcomer");
    for registry in registries(w) {
        let key = admin_key(w, registry, newcomer.address()).await;
        w.set_in(registry, &key, U256::MAX - U256::from(1)).await;
        w.send(newcomer.calls(registry, set("k", 7))).await;
        w.set_in(registry, &key, 0).await;
        w.refuse(newcomer.calls(registry, set("k", 8)), NotAdmin {}).await;
        assert_eq!(value(w, registry, "k").await, word(7));
    }
}

async fn without_admins_nothing_can_be_set_any_more(w: &TestNetwork) {
    for registry in registries(w) {
        let key = admin_key(w, registry, admin().address()).await;
        w.set_in(registry, &key, 0).await;
        w.refuse(admin().calls(registry, set(&key, 1)), NotAdmin {}).await;
    }
}

async fn a_registry_begins_with_admins(w: &TestNetwork) {
    let (first, second) = (actor("first").address(), actor("second").address());
    for name in ["SettlementChainParameterRegistry", "AppChainParameterRegistry"] {
        let registry = w.uninitialised(name, vec![]).await;
        let call = |admins_| anyone().calls(registry, initializeCall { admins_ });
        w.refuse_all([
            (call(vec![]), EmptyAdmins {}.into()),
            (call(vec![first, Address::ZERO]), ZeroAdmin {}.into()),
        ])
        .await;
        let receipt = w.send(call(vec![first, second])).await;
        let keys = [admin_key(w, registry, first).await, admin_key(w, registry, second).await];
        assert_eq!(receipt.events::<ParameterSet>(registry), keys.map(|key| event(&key, 1)));
        for admin in [first, second] {
            assert!(w.read(registry, isAdminCall { account_: admin }).await);
        }
    }
}
