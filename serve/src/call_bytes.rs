//! The memory that one call is charged, as a value: the part that its connection is charged for, and the part that only
//! its address and the budget are.
//!
//! Tasks of a call give memory back beside its end, on other threads. Each method is one step under the lock of the
//! call, so each byte has one place at every time and is given back once.

/// The bytes that a call is charged.
#[derive(Debug, Default)]
pub(crate) struct CallBytes {
    /// Bytes that the connection, its address and the budget are charged for.
    held: usize,
    /// The part of `held` that is lent from free memory.
    held_lent: usize,
    /// Bytes that the connection is no longer charged for, because its end would not free them. They stay charged to
    /// the address and the budget.
    address_only: usize,
    /// The part of `address_only` that is lent from free memory.
    address_only_lent: usize,
    /// The part for the request: its encoded bytes and its decoded form.
    request: usize,
    /// The part that the call itself takes until it answers.
    call: usize,
}

/// The source of the memory for a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemorySource {
    /// The share of the caller.
    Share,
    /// Free memory, which is taken back when other callers need it.
    Lent,
}

/// Bytes that a call is no longer charged. The caller of the method subtracts them from the shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReturnedBytes {
    /// Bytes of the connection, its address and the budget.
    pub(crate) held: usize,
    /// The lent part of `held`.
    pub(crate) held_lent: usize,
    /// Bytes of the address and the budget alone.
    pub(crate) address_only: usize,
    /// The lent part of `address_only`.
    pub(crate) address_only_lent: usize,
}

impl CallBytes {
    /// Returns the bytes that the connection is charged for.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Returns the bytes that the request is charged.
    pub(crate) fn request(&self) -> usize {
        self.request
    }

    /// Adds bytes that the connection has been charged for.
    pub(crate) fn add(&mut self, bytes: usize, source: MemorySource) {
        self.held += bytes;
        if source == MemorySource::Lent {
            self.held_lent += bytes;
        }
    }

    /// Assigns bytes that were added to the request.
    pub(crate) fn assign_to_request(&mut self, bytes: usize) {
        self.request += bytes;
    }

    /// Assigns bytes that were added to the call itself.
    pub(crate) fn assign_to_call(&mut self, bytes: usize) {
        self.call += bytes;
    }

    /// Sets the charge of the request, and returns the earlier one.
    pub(crate) fn replace_request(&mut self, bytes: usize) -> usize {
        std::mem::replace(&mut self.request, bytes)
    }

    /// Sets the charge of the call itself, and returns the earlier one.
    pub(crate) fn replace_call(&mut self, bytes: usize) -> usize {
        std::mem::replace(&mut self.call, bytes)
    }

    /// Takes up to `bytes` away. Bytes that the connection is charged for go first, and among these the bytes that are
    /// not lent.
    pub(crate) fn give_back(&mut self, bytes: usize) -> ReturnedBytes {
        let held = bytes.min(self.held);
        let address_only = (bytes - held).min(self.address_only);
        self.remove(ReturnedBytes {
            held,
            held_lent: held.saturating_sub(self.held - self.held_lent),
            address_only,
            address_only_lent: address_only
                .saturating_sub(self.address_only - self.address_only_lent),
        })
    }

    /// Takes up to `bytes` away as [`CallBytes::give_back`] does, but lent ones first.
    pub(crate) fn give_back_lasting(&mut self, bytes: usize) -> ReturnedBytes {
        let held = bytes.min(self.held);
        let address_only = (bytes - held).min(self.address_only);
        self.remove(ReturnedBytes {
            held,
            held_lent: held.min(self.held_lent),
            address_only,
            address_only_lent: address_only.min(self.address_only_lent),
        })
    }

    /// Takes everything away that the connection is charged for.
    pub(crate) fn give_back_held(&mut self) -> ReturnedBytes {
        let (held, held_lent) = (self.held, self.held_lent);
        self.remove(ReturnedBytes { held, held_lent, ..ReturnedBytes::default() })
    }

    /// Moves everything that the connection is charged for to its address. Returns the bytes and the lent part of them,
    /// which the connection is no longer charged for.
    pub(crate) fn leave(&mut self) -> (usize, usize) {
        let ReturnedBytes { held, held_lent, .. } = self.give_back_held();
        self.address_only += held;
        self.address_only_lent += held_lent;
        (held, held_lent)
    }

    /// Takes everything away.
    pub(crate) fn give_back_all(&mut self) -> ReturnedBytes {
        let Self { held, held_lent, address_only, address_only_lent, .. } = *self;
        self.remove(ReturnedBytes { held, held_lent, address_only, address_only_lent })
    }

    fn remove(&mut self, returned: ReturnedBytes) -> ReturnedBytes {
        let ReturnedBytes { held, held_lent, address_only, address_only_lent } = returned;
        self.held -= held;
        self.held_lent -= held_lent;
        self.address_only -= address_only;
        self.address_only_lent -= address_only_lent;
        debug_assert!(
            self.held_lent <= self.held && self.address_only_lent <= self.address_only,
            "lent bytes are a part of all: {self:?}"
        );
        returned
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A step of a call or of its tasks. Numbers are bytes.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Take(usize),
        Borrow(usize),
        GiveBack(usize),
        GiveBackLasting(usize),
        Leave,
        Clear,
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..100).prop_map(Step::Take),
            (0usize..100).prop_map(Step::Borrow),
            (0usize..150).prop_map(Step::GiveBack),
            (0usize..150).prop_map(Step::GiveBackLasting),
            Just(Step::Leave),
            Just(Step::Clear),
        ]
    }

    proptest! {
        /// In whatever order a call and its tasks end, no byte is given back twice, and none is kept.
        #[test]
        fn each_byte_is_given_back_once(steps in proptest::collection::vec(steps(), 0..40)) {
            let mut call = CallBytes::default();
            // Bytes, and the lent part of them, that connection and address are charged for.
            let (mut connection, mut address) = ([0_usize; 2], [0_usize; 2]);
            for step in steps {
                let returned = match step {
                    Step::Take(bytes) => {
                        call.add(bytes, MemorySource::Share);
                        for share in [&mut connection, &mut address] {
                            share[0] += bytes;
                        }
                        ReturnedBytes::default()
                    }
                    Step::Borrow(bytes) => {
                        call.add(bytes, MemorySource::Lent);
                        for share in [&mut connection, &mut address] {
                            *share = share.map(|it| it + bytes);
                        }
                        ReturnedBytes::default()
                    }
                    Step::GiveBack(bytes) => call.give_back(bytes),
                    Step::GiveBackLasting(bytes) => call.give_back_lasting(bytes),
                    Step::Leave => {
                        let (bytes, lent) = call.leave();
                        connection = [connection[0] - bytes, connection[1] - lent];
                        ReturnedBytes::default()
                    }
                    Step::Clear => call.give_back_held(),
                };
                let ReturnedBytes { held, held_lent, address_only, address_only_lent } = returned;
                connection = [connection[0] - held, connection[1] - held_lent];
                address = [address[0] - held - address_only, address[1] - held_lent - address_only_lent];
                prop_assert_eq!(connection, [call.held, call.held_lent]);
                prop_assert_eq!(address, [call.held + call.address_only, call.held_lent + call.address_only_lent]);
            }
            let ReturnedBytes { held, held_lent, address_only, address_only_lent } = call.give_back_all();
            prop_assert_eq!(connection, [held, held_lent]);
            prop_assert_eq!(address, [held + address_only, held_lent + address_only_lent]);
            prop_assert_eq!(call.held + call.address_only, 0);
        }
    }

    #[test]
    fn lent_bytes_go_first_only_where_long_lived_state_ends() {
        let mut call = CallBytes::default();
        call.add(10, MemorySource::Share);
        call.add(20, MemorySource::Lent);
        assert_eq!(call.give_back(10), ReturnedBytes { held: 10, ..Default::default() });
        let lent = ReturnedBytes { held: 5, held_lent: 5, ..Default::default() };
        assert_eq!(call.give_back_lasting(5), lent);
        assert_eq!(call.leave(), (15, 15));
        let address_only =
            ReturnedBytes { address_only: 15, address_only_lent: 15, ..Default::default() };
        assert_eq!(
            call.give_back_lasting(100),
            address_only,
            "after the end, those of the address"
        );
    }
}
