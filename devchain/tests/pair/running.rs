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
        match self {
            Self::Embedded => RunningChain::embedded(chain_id, None).await,
            Self::Anvil => {
                let program = anvil::find_program().expect(
                    "no anvil: run scripts/test, which installs it, or name one in HAWSER_ANVIL",
                );
                let settings =
                    AnvilSettings { program, chain_id, port: 0, state: None, idle_blocks: false };
                let anvil = Anvil::start(settings).await.unwrap();
                let url = format!("http://{}", anvil.local_addr());
                RunningChain { url, _process: Process::Anvil { _anvil: anvil } }
            }
        }
    }
}

impl RunningChain {
    /// Starts an embedded chain with the known accounts and blocks on demand. `genesis_time` is the time of block 0 in
    /// unix seconds; without it, that is the machine's time.
    pub(crate) async fn embedded(chain_id: u64, genesis_time: Option<u64>) -> Self {
        let accounts = deploy::accounts();
        let balances = accounts.iter().map(|key| (key.address(), deploy::NATIVE_BALANCE));
        let balances = balances.collect();
        let genesis = Genesis { balances, time: genesis_time, ..Genesis::default() };
        let settings = EmbeddedSettings { genesis, ..EmbeddedSettings::new(chain_id) };
        let chain = EmbeddedChain::start(settings).await.unwrap();
        let url = format!("http://{}", chain.local_addr());
        Self { url, _process: Process::Embedded { _chain: chain } }
    }
}
