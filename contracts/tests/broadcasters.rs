//! The broadcasters: one order for the payloads of groups and for those of inboxes.

use alloy::primitives::{Address, B256, Bytes, FixedBytes, U256};
use hawser_chain::contracts::GroupMessageBroadcaster::{
    ArrayLengthMismatch, EmptyArray, InvalidMaxPayloadSize, InvalidMinPayloadSize,
    InvalidPayloadSize, MaxPayloadSizeUpdated, MessageSent, MinPayloadSizeUpdated, NoChange,
    NotPaused, NotPayloadBootstrapper, ParameterOutOfTypeBounds, Paused,
    PayloadBootstrapperUpdated, ZeroPayloadBootstrapper, addMessageCall, bootstrapMessagesCall,
    maxPayloadSizeCall, minPayloadSizeCall, payloadBootstrapperCall, updateMaxPayloadSizeCall,
    updateMinPayloadSizeCall, updatePauseStatusCall, updatePayloadBootstrapperCall,
};
use hawser_chain::contracts::IdentityUpdateBroadcaster::{
    IdentityUpdateCreated, addIdentityUpdateCall, bootstrapIdentityUpdatesCall,
};

use crate::harness::actors::{Actor, Caller as _, actor, admin, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::network::{IntoWord, TestNetwork};
use crate::harness::tx::{Receipt, Tx};

on_both_chains! {
    numbers_begin_at_one_and_step_by_one
    each_broadcaster_counts_for_itself
    group_ids_stand_at_the_beginning_of_their_topic
    payloads_must_have_a_size_within_the_limits
    limits_must_be_in_order
    limits_are_taken_over_from_parameters
    a_broadcaster_without_limits_takes_empty_payloads_only
    a_paused_broadcaster_takes_payloads_of_the_bootstrapper_only
    a_bootstrap_chooses_its_numbers_and_what_follows_has_higher_ones
    lists_of_a_bootstrap_must_match
    the_bootstrapper_is_taken_over_from_a_parameter
}

/// The smallest payload, as configured.
const SIZE_MIN: usize = 78;
const SIZE_MAX: usize = 262_144;

/// One of the two broadcasters. They differ in names only.
#[derive(Clone, Copy)]
pub(crate) struct Broadcaster {
    pub(crate) address: Address,
    pub(crate) prefix: &'static str,
    is_for_groups: bool,
}

pub(crate) fn broadcasters(w: &TestNetwork) -> [Broadcaster; 2] {
    [
        Broadcaster {
            address: w.at.groups,
            prefix: "xmtp.groupMessageBroadcaster",
            is_for_groups: true,
        },
        Broadcaster {
            address: w.at.identities,
            prefix: "xmtp.identityUpdateBroadcaster",
            is_for_groups: false,
        },
    ]
}

/// A logged payload: identifier, bytes, sequence number.
pub(crate) type Sent = (B256, Bytes, u64);

impl Broadcaster {
    pub(crate) fn add(&self, from: &Actor, id: u8, payload: &[u8]) -> Tx {
        let payload = Bytes::copy_from_slice(payload);
        if self.is_for_groups {
            let call = addMessageCall { groupId_: FixedBytes::repeat_byte(id), message_: payload };
            return from.calls(self.address, call);
        }
        let inboxId_ = B256::repeat_byte(id);
        from.calls(self.address, addIdentityUpdateCall { inboxId_, identityUpdate_: payload })
    }

    /// Returns a bootstrap of payloads of one byte.
    pub(crate) fn bootstrap(&self, from: &Actor, ids: &[u8], numbers: &[u64]) -> Tx {
        let payloads = ids.iter().map(|id| Bytes::from(vec![*id])).collect();
        self.bootstrap_lists(from, ids, payloads, numbers)
    }

    fn bootstrap_lists(&self, from: &Actor, ids: &[u8], payloads: Vec<Bytes>, n: &[u64]) -> Tx {
        if self.is_for_groups {
            let call = bootstrapMessagesCall {
                groupIds_: ids.iter().copied().map(FixedBytes::repeat_byte).collect(),
                messages_: payloads,
                sequenceIds_: n.to_vec(),
            };
            return from.calls(self.address, call);
        }
        let call = bootstrapIdentityUpdatesCall {
            inboxIds_: ids.iter().copied().map(FixedBytes::repeat_byte).collect(),
            identityUpdates_: payloads,
            sequenceIds_: n.to_vec(),
        };
        from.calls(self.address, call)
    }

    pub(crate) fn sent(&self, receipt: &Receipt) -> Vec<Sent> {
        if self.is_for_groups {
            let events = receipt.events::<MessageSent>(self.address);
            return events
                .into_iter()
                .map(|sent| {
                    (B256::right_padding_from(&sent.groupId[..]), sent.message, sent.sequenceId)
                })
                .collect();
        }
        let events = receipt.events::<IdentityUpdateCreated>(self.address);
        events.into_iter().map(|sent| (sent.inboxId, sent.update, sent.sequenceId)).collect()
    }

    /// Returns the expected result of `sent`.
    pub(crate) fn logged(&self, id: u8, payload: &[u8], number: u64) -> Sent {
        let width = if self.is_for_groups { 16 } else { 32 };
        let id = B256::right_padding_from(&vec![id; width]);
        (id, Bytes::copy_from_slice(payload), number)
    }

    pub(crate) async fn set(&self, w: &TestNetwork, name: &str, value: impl IntoWord) {
        w.set_app(&format!("{}.{name}", self.prefix), value).await;
    }

    pub(crate) async fn set_paused(&self, w: &TestNetwork, is_paused: bool) {
        self.set(w, "paused", u64::from(is_paused)).await;
        w.update(self.address, updatePauseStatusCall {}).await;
    }

    /// Names the account that may bootstrap, and pauses the broadcaster.
    pub(crate) async fn open_for(&self, w: &TestNetwork, bootstrapper: &Actor) {
        self.set(w, "payloadBootstrapper", bootstrapper.address()).await;
        w.update(self.address, updatePayloadBootstrapperCall {}).await;
        self.set_paused(w, true).await;
    }
}

fn payload(byte: u8) -> Vec<u8> {
    vec![byte; SIZE_MIN]
}

async fn numbers_begin_at_one_and_step_by_one(w: &TestNetwork) {
    for it in broadcasters(w) {
        for number in 1..=3 {
            let receipt = w.send(it.add(&anyone(), 7, &payload(9))).await;
            assert_eq!(it.sent(&receipt), [it.logged(7, &payload(9), number)]);
        }
    }
}

async fn each_broadcaster_counts_for_itself(w: &TestNetwork) {
    let [groups, identities] = broadcasters(w);
    for _ in 0..2 {
        w.send(groups.add(&anyone(), 1, &payload(1))).await;
    }
    let receipt = w.send(identities.add(&admin(), 1, &payload(1))).await;
    assert_eq!(identities.sent(&receipt)[0].2, 1);
    let receipt = w.send(groups.add(&admin(), 2, &payload(1))).await;
    assert_eq!(groups.sent(&receipt)[0].2, 3);
}

async fn group_ids_stand_at_the_beginning_of_their_topic(w: &TestNetwork) {
    let [groups, identities] = broadcasters(w);
    for (it, topic) in [(groups, [[0xab; 16], [0; 16]].concat()), (identities, vec![0xab; 32])] {
        let receipt = w.send(it.add(&anyone(), 0xab, &payload(1))).await;
        assert_eq!(receipt.0.logs()[0].topics()[1], B256::from_slice(&topic));
    }
}

async fn payloads_must_have_a_size_within_the_limits(w: &TestNetwork) {
    for it in broadcasters(w) {
        let refusal = |actual: usize| InvalidPayloadSize {
            actualSize_: U256::from(actual),
            minSize_: U256::from(SIZE_MIN),
            maxSize_: U256::from(SIZE_MAX),
        };
        for size in [0, SIZE_MIN - 1, SIZE_MAX + 1] {
            w.refuse(it.add(&anyone(), 1, &vec![1; size]), refusal(size)).await;
        }
        for (size, number) in [(SIZE_MIN, 1), (SIZE_MAX, 2)] {
            let receipt = w.send(it.add(&anyone(), 1, &vec![1; size])).await;
            assert_eq!(it.sent(&receipt), [it.logged(1, &vec![1; size], number)]);
        }
    }
}

async fn limits_must_be_in_order(w: &TestNetwork) {
    for it in broadcasters(w) {
        let min = anyone().calls(it.address, updateMinPayloadSizeCall {});
        let max = anyone().calls(it.address, updateMaxPayloadSizeCall {});
        w.refuse(min.clone(), NoChange {}).await;
        w.refuse(max.clone(), NoChange {}).await;
        for size in [0, SIZE_MAX as u64 + 1] {
            it.set(w, "minPayloadSize", size).await;
            w.refuse(min.clone(), InvalidMinPayloadSize {}).await;
        }
        for size in [0, SIZE_MIN as u64 - 1, SIZE_MAX as u64 + 1] {
            it.set(w, "maxPayloadSize", size).await;
            w.refuse(max.clone(), InvalidMaxPayloadSize {}).await;
        }
        for (name, tx) in [("minPayloadSize", min), ("maxPayloadSize", max)] {
            it.set(w, name, 1 << 32).await;
            w.refuse(tx, ParameterOutOfTypeBounds {}).await;
        }
    }
}

async fn limits_are_taken_over_from_parameters(w: &TestNetwork) {
    for it in broadcasters(w) {
        it.set(w, "maxPayloadSize", 100).await;
        let receipt = w.send(anyone().calls(it.address, updateMaxPayloadSizeCall {})).await;
        let size = U256::from(100);
        assert_eq!(receipt.event::<MaxPayloadSizeUpdated>(it.address).size, size);
        it.set(w, "minPayloadSize", 100).await;
        let receipt = w.send(anyone().calls(it.address, updateMinPayloadSizeCall {})).await;
        assert_eq!(receipt.event::<MinPayloadSizeUpdated>(it.address).size, size);

        assert_eq!(w.read(it.address, maxPayloadSizeCall {}).await, 100);
        assert_eq!(w.read(it.address, minPayloadSizeCall {}).await, 100);
        w.send(it.add(&anyone(), 1, &[1; 100])).await;
        let refusal =
            InvalidPayloadSize { actualSize_: U256::from(99), minSize_: size, maxSize_: size };
        w.refuse(it.add(&anyone(), 1, &[1; 99]), refusal).await;
    }
}

async fn a_broadcaster_without_limits_takes_empty_payloads_only(w: &TestNetwork) {
    for (name, it) in
        ["GroupMessageBroadcaster", "IdentityUpdateBroadcaster"].into_iter().zip(broadcasters(w))
    {
        let address = w.fresh(name).await;
        let it = Broadcaster { address, ..it };
        let receipt = w.send(it.add(&anyone(), 1, &[])).await;
        assert_eq!(it.sent(&receipt), [it.logged(1, &[], 1)]);
        let refusal = InvalidPayloadSize {
            actualSize_: U256::from(1),
            minSize_: U256::ZERO,
            maxSize_: U256::ZERO,
        };
        w.refuse(it.add(&anyone(), 1, &[1]), refusal).await;
        // The upper limit is still zero, and the lower one may not exceed it.
        w.refuse(anyone().calls(address, updateMinPayloadSizeCall {}), InvalidMinPayloadSize {})
            .await;
    }
}

async fn a_paused_broadcaster_takes_payloads_of_the_bootstrapper_only(w: &TestNetwork) {
    let bootstrapper = actor("bootstrapper");
    for it in broadcasters(w) {
        w.refuse(it.bootstrap(&bootstrapper, &[1], &[1]), NotPaused {}).await;
        it.open_for(w, &bootstrapper).await;
        w.refuse_all([
            (it.add(&anyone(), 1, &payload(1)), Paused {}.into()),
            // The contract checks the pause before the size.
            (it.add(&anyone(), 1, &[]), Paused {}.into()),
            (it.bootstrap(&anyone(), &[1], &[1]), NotPayloadBootstrapper {}.into()),
            // The contract checks the sender before the arguments.
            (it.bootstrap(&anyone(), &[], &[]), NotPayloadBootstrapper {}.into()),
        ])
        .await;
        w.send(it.bootstrap(&bootstrapper, &[1], &[1])).await;
        it.set_paused(w, false).await;
        w.refuse(it.bootstrap(&bootstrapper, &[1], &[2]), NotPaused {}).await;
        w.send(it.add(&anyone(), 1, &payload(1))).await;
    }
}

async fn a_bootstrap_chooses_its_numbers_and_what_follows_has_higher_ones(w: &TestNetwork) {
    let bootstrapper = actor("bootstrapper");
    for it in broadcasters(w) {
        it.open_for(w, &bootstrapper).await;
        // Gaps, repetitions and steps back.
        let numbers = [5, 9, 9, 2];
        let receipt = w.send(it.bootstrap(&bootstrapper, &[1, 2, 3, 4], &numbers)).await;
        let expected = [(1, 5), (2, 9), (3, 9), (4, 2)];
        assert_eq!(it.sent(&receipt), expected.map(|(id, number)| it.logged(id, &[id], number)));
        w.send(it.bootstrap(&bootstrapper, &[1], &[3])).await;
        let huge = vec![Bytes::from(vec![1; SIZE_MAX + 1]), Bytes::new()];
        w.send(it.bootstrap_lists(&bootstrapper, &[1, 1], huge, &[0, 1])).await;

        it.set_paused(w, false).await;
        for number in [10, 11] {
            let receipt = w.send(it.add(&anyone(), 1, &payload(1))).await;
            assert_eq!(it.sent(&receipt)[0].2, number);
        }
    }
}

async fn lists_of_a_bootstrap_must_match(w: &TestNetwork) {
    let bootstrapper = actor("bootstrapper");
    for it in broadcasters(w) {
        it.open_for(w, &bootstrapper).await;
        let lists = |ids: &[u8], payloads: usize, numbers: &[u64]| {
            it.bootstrap_lists(&bootstrapper, ids, vec![Bytes::new(); payloads], numbers)
        };
        w.refuse_all([
            (lists(&[1], 2, &[1]), ArrayLengthMismatch {}.into()),
            (lists(&[1, 2], 1, &[1]), ArrayLengthMismatch {}.into()),
            (lists(&[1], 1, &[1, 2]), ArrayLengthMismatch {}.into()),
            (lists(&[], 0, &[1]), ArrayLengthMismatch {}.into()),
            (lists(&[], 0, &[]), EmptyArray {}.into()),
        ])
        .await;
    }
}

async fn the_bootstrapper_is_taken_over_from_a_parameter(w: &TestNetwork) {
    let bootstrapper = actor("bootstrapper").address();
    for it in broadcasters(w) {
        let update = anyone().calls(it.address, updatePayloadBootstrapperCall {});
        w.refuse(update.clone(), ZeroPayloadBootstrapper {}).await;
        it.set(w, "payloadBootstrapper", U256::MAX).await;
        w.refuse(update.clone(), ParameterOutOfTypeBounds {}).await;
        it.set(w, "payloadBootstrapper", bootstrapper).await;
        let receipt = w.send(update.clone()).await;
        let event = receipt.event::<PayloadBootstrapperUpdated>(it.address);
        assert_eq!(event.payloadBootstrapper, bootstrapper);
        assert_eq!(w.read(it.address, payloadBootstrapperCall {}).await, bootstrapper);
        w.refuse(update, NoChange {}).await;
    }
}
