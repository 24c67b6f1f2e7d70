//! Chains for tests. They end with the test program, even if it is killed.

use hawser_devchain::anvil::{self, Anvil, AnvilSettings};
use hawser_devchain::deploy;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};

/// The program that runs a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChainBackend {
    Embedded,
    Anvil,
}

/// A chain that runs until this value is dropped.
pub(crate) struct RunningChain {
    pub(crate) url: String,
    _process: Process,
}

enum Process {
    Embedded { _chain: EmbeddedChain },
    Anvil { _anvil: Anvil },
}

impl ChainBackend {
    /// Starts a chain with the known accounts and blocks on demand.
    pub(crate) async fn start(self, chain_id: u64) -> RunningChain {
        let (address, process) = match self {
            Self::Embedded => {
                let accounts = deploy::accounts();
                let balances = accounts.iter().map(|key| (key.address(), deploy::NATIVE_BALANCE));
                let genesis = Genesis { balances: balances.collect(), ..Genesis::default() };
                let settings = EmbeddedSettings { genesis, ..EmbeddedSettings::new(chain_id) };
                let chain = EmbeddedChain::start(settings).await.unwrap();
                (chain.local_addr(), Process::Embedded { _chain: chain })
            }
            Self::Anvil => {
                let program = anvil::find_program().expect(
                    "no anvil: run scripts/test, which installs it, or name one in HAWSER_ANVIL",
                );
                let settings =
                    AnvilSettings { program, chain_id, port: 0, state: None, idle_blocks: false };
                let anvil = Anvil::start(settings).await.unwrap();
                (anvil.local_addr(), Process::Anvil { _anvil: anvil })
            }
        };
        RunningChain { url: format!("http://{address}"), _process: process }
    }
}
