//! The addresses of the contracts of both chains: from a file, its text, the name of a deployed
//! network, and individual settings.

use std::path::{Path, PathBuf};

use hawser_chain::addresses::{Addresses, AddressesError, GivenAddresses};
use hawser_chain::admin::{ChainRole, Contract, Contracts};
use hawser_serve::named_file;
use hawser_validation::wallets::WalletChainList;

use crate::error::{RunError, RunErrorKind};
use crate::settings::table::chains::{ENVIRONMENT, FILE, TEXT, UNSET_CHAIN_ID, flag_of};
use crate::settings::{AddressSource, ChainAccessSettings, ContractSettings, WalletSettings};

/// Ids of the chains of development networks: those of `hawser dev`, and the one of the reference implementation.
const DEVELOPMENT_IDS: [u64; 2] = [UNSET_CHAIN_ID, 31_338];

/// The chain ids, contracts and first blocks of both chains.
#[derive(Debug, Clone)]
pub struct KnownDeployment {
    /// Chain id of the settlement chain.
    pub settlement_id: u64,
    /// The first block of the settlement chain with events; 0 if unknown.
    pub settlement_first_block: u64,
    /// Chain id of the app chain.
    pub app_id: u64,
    /// The first block of the app chain with events; 0 if unknown.
    pub app_first_block: u64,
    /// The known addresses of the contracts.
    pub contracts: Contracts,
}

impl KnownDeployment {
    /// Reads the configured source of addresses. Individually configured ids and addresses take precedence. The source
    /// may lack contracts that are not `needed`, and the id of a chain without a URL.
    ///
    /// # Errors
    /// Fails when the source cannot be read, or has a wrong value. One error names everything needed that neither the
    /// source nor a setting gives.
    pub async fn of(settings: &ContractSettings, needed: &[Contract]) -> Result<Self, RunError> {
        let file = match &settings.source {
            Some(source) => Some(given(source).await?),
            None => None,
        };
        let known = KnownContracts { file, settings };
        known.check(needed)?;
        let block = |in_file: fn(&GivenAddresses) -> u64| known.file.as_ref().map_or(0, in_file);
        Ok(Self {
            settlement_id: known.chain_id(ChainRole::Settlement).unwrap_or(UNSET_CHAIN_ID),
            settlement_first_block: block(GivenAddresses::settlement_chain_deployment_block),
            app_id: known.chain_id(ChainRole::App).unwrap_or(UNSET_CHAIN_ID),
            app_first_block: block(GivenAddresses::app_chain_deployment_block),
            contracts: known.contracts(),
        })
    }

    /// Checks that this network may have these chains of contract wallets. Outside development networks the chains are
    /// those of the protocol, so that all nodes of a network judge identity updates alike (decision 56).
    ///
    /// # Errors
    /// Fails if an operator adds a chain to a network that is not for development.
    pub(crate) fn check_wallets(&self, wallets: &WalletSettings) -> Result<(), RunError> {
        let ids = [self.settlement_id, self.app_id];
        let of_protocol = WalletChainList::default();
        let added = wallets.more_chains.iter().filter(|id| !of_protocol.contains(**id));
        let added: Vec<_> = added.map(u64::to_string).collect();
        if added.is_empty() || ids.iter().all(|id| DEVELOPMENT_IDS.contains(id)) {
            return Ok(());
        }
        let [settlement, app] = ids;
        Err(RunError::usage(format!(
            "--wallet-chains adds {} to the chains of contract wallets, which is for development networks only \
             (chains 31337 and 31338; this network has {settlement} and {app}): all nodes of a network know the same \
             chains. Remove it",
            added.join(", ")
        )))
    }
}

/// The address of a contract in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveContract {
    /// The contract.
    pub contract: Contract,
    /// Its address in checksummed hex.
    pub address: String,
    /// The setting that gives it, without the value of that: a URL may contain a key.
    pub origin: String,
}

impl EffectiveContract {
    /// Returns all known contracts of these settings. Reads the file that they name, also from the web.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub async fn all(settings: &ContractSettings) -> Result<Vec<Self>, RunError> {
        let known = KnownDeployment::of(settings, &[]).await?.contracts;
        let source = settings.source.as_ref().map(shown).unwrap_or_default();
        let of = |contract| {
            let address = known.get(contract)?.to_string();
            let is_single = settings.single.get(contract).is_some();
            let origin =
                if is_single { format!("--{}", flag_of(contract)) } else { source.clone() };
            Some(Self { contract, address, origin })
        };
        Ok(Contract::ALL.into_iter().chain(Contract::OPTIONAL).filter_map(of).collect())
    }
}

/// The values of the source and the settings.
struct KnownContracts<'a> {
    /// The source's values; `None` without a source.
    file: Option<GivenAddresses>,
    settings: &'a ContractSettings,
}

impl KnownContracts<'_> {
    fn contracts(&self) -> Contracts {
        let mut contracts = self.file.as_ref().map(Contracts::from).unwrap_or_default();
        contracts.set_all(&self.settings.single);
        contracts
    }

    fn access(&self, chain: ChainRole) -> &ChainAccessSettings {
        match chain {
            ChainRole::Settlement => &self.settings.settlement,
            ChainRole::App => &self.settings.app,
        }
    }

    fn chain_id(&self, chain: ChainRole) -> Option<u64> {
        let in_file = || self.file.as_ref()?.number(id_key(chain));
        self.access(chain).id.or_else(in_file)
    }

    /// Checks that everything needed is given.
    fn check(&self, needed: &[Contract]) -> Result<(), RunError> {
        let contracts = self.contracts();
        let lacking = needed.iter().filter(|contract| contracts.get(**contract).is_none());
        let lacking: Vec<_> = lacking.copied().collect();
        let lacks_id = |chain: &ChainRole| {
            // Without a source the id is that of a development chain.
            let read = self.file.is_some() && !self.access(*chain).urls.is_empty();
            read && self.chain_id(*chain).is_none()
        };
        let ids = [ChainRole::Settlement, ChainRole::App].into_iter().filter(lacks_id);
        let keys: Vec<_> = ids.map(|chain| id_key(chain).to_owned()).collect();
        let keys = [keys, lacking.iter().map(|contract| contract.key()).collect()].concat();
        if keys.is_empty() {
            return Ok(());
        }
        let keys = format!("`{}`", keys.join("`, `"));
        let missing = match &self.settings.source {
            Some(source) => format!("{keys} missing in {}: add what is missing", shown(source)),
            None => format!(
                "the addresses of contracts are not given, {keys}: name the network (--{}), or the file with all \
                 addresses (--{})",
                ENVIRONMENT.flag, FILE.flag
            ),
        };
        let flags: Vec<_> = lacking.iter().map(|it| format!("--{}", flag_of(*it))).collect();
        let or = if flags.is_empty() { "" } else { ", or give " };
        Err(RunError::usage(format!("{missing}{or}{}", flags.join(", "))))
    }
}

fn id_key(chain: ChainRole) -> &'static str {
    match chain {
        ChainRole::Settlement => GivenAddresses::SETTLEMENT_CHAIN_ID,
        ChainRole::App => GivenAddresses::APP_CHAIN_ID,
    }
}

/// Returns the setting of a source, without its value: a URL may contain a key.
fn shown(source: &AddressSource) -> String {
    match source {
        AddressSource::Place(_) => format!("the file of --{}", FILE.flag),
        AddressSource::Text(_) => format!("--{}", TEXT.flag),
        AddressSource::Environment(name) => format!("the network {name}"),
    }
}

async fn given(source: &AddressSource) -> Result<GivenAddresses, RunError> {
    match source {
        AddressSource::Place(place) => at_place(place).await,
        AddressSource::Text(text) => GivenAddresses::parse(text)
            .map_err(|fault| RunError::usage(format!("--{}: {fault}", TEXT.flag))),
        AddressSource::Environment(name) => of_environment(name),
    }
}

async fn at_place(place: &str) -> Result<GivenAddresses, RunError> {
    if let Some(name) = place.strip_prefix("config://") {
        return of_environment(name);
    }
    let read = if place.starts_with("http://") || place.starts_with("https://") {
        GivenAddresses::fetch(place).await
    } else {
        in_file(&path_of(place))
    };
    read.map_err(|error| RunError { kind: reason(&error), text: error.to_string() })
}

fn in_file(path: &Path) -> Result<GivenAddresses, AddressesError> {
    let failed = |source| AddressesError::Read { path: path.to_owned(), source };
    if !named_file::is_pipe(path).map_err(failed)? {
        return GivenAddresses::read(path);
    }
    GivenAddresses::parse(&named_file::read_text(path).map_err(failed)?)
        .map_err(|source| AddressesError::Content { path: path.to_owned(), source })
}

/// Returns the path of a file, which may be given as a `file://` URL.
fn path_of(place: &str) -> PathBuf {
    let Some(rest) = place.strip_prefix("file://") else { return place.into() };
    let url = reqwest::Url::parse(place).ok();
    // A URL without the root of a path names a file in the working folder.
    url.and_then(|url| url.to_file_path().ok()).unwrap_or_else(|| rest.into())
}

fn reason(error: &AddressesError) -> RunErrorKind {
    match error {
        AddressesError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            RunErrorKind::NotFound
        }
        AddressesError::Content { .. } => RunErrorKind::Usage,
        AddressesError::Read { .. } | AddressesError::Fetch { .. } => RunErrorKind::Failed,
    }
}

fn of_environment(name: &str) -> Result<GivenAddresses, RunError> {
    GivenAddresses::of_environment(name).ok_or_else(|| {
        let known = Addresses::ENVIRONMENTS.join(", ");
        RunError::usage(format!("no environment is called {name:?}; there are {known}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingSources;

    const REGISTRY: &str = "0xd19F631634Bdb0e31217Ee22139025B75Ce6EA5C";
    const NEEDED: [Contract; 3] =
        [Contract::NodeRegistry, Contract::RateRegistry, Contract::GroupMessageBroadcaster];

    /// Reads the deployment that these settings describe, beside the URLs of both chains.
    async fn read(
        given: &[(&str, &str)],
        needed: &[Contract],
    ) -> Result<KnownDeployment, RunError> {
        let urls = ["contracts.settlement-chain.rpc-url", "contracts.app-chain.rpc-url"];
        let urls = urls.map(|flag| (flag, "http://127.0.0.1:8545"));
        let flags = urls.iter().chain(given);
        let flags = flags.map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned()));
        let sources = SettingSources::new(flags.collect::<Vec<_>>(), Vec::new());
        KnownDeployment::of(&ContractSettings::read(&sources).unwrap(), needed).await
    }

    #[test]
    fn a_file_may_be_given_as_a_url() {
        assert_eq!(path_of("file:///etc/my%20net/chain.json"), Path::new("/etc/my net/chain.json"));
        assert_eq!(path_of("/etc/my%20net/chain.json"), Path::new("/etc/my%20net/chain.json"));
        assert_eq!(path_of("file://chain.json"), Path::new("chain.json"));
    }

    /// Every network that is built in has every contract, by either setting.
    #[tokio::test]
    async fn a_network_is_found_by_its_name_in_both_settings() {
        for name in Addresses::ENVIRONMENTS {
            let known = Addresses::of_environment(name).unwrap();
            let place = format!("config://{name}");
            for source in
                [("contracts.environment", name), ("contracts.config-file-path", place.as_str())]
            {
                let read = read(&[source], &Contract::ALL).await.unwrap();
                assert_eq!(read.settlement_id, known.settlement_chain_id, "{name}");
                assert_eq!(read.app_id, known.app_chain_id, "{name}");
                assert_eq!(read.contracts, Contracts::from(&known), "{name}");
                assert_eq!(read.app_first_block, known.app_chain_deployment_block, "{name}");
                let block = known.settlement_chain_deployment_block;
                assert_eq!(read.settlement_first_block, block, "{name}");
            }
        }
        for source in [
            AddressSource::Environment("moon".into()),
            AddressSource::Place("config://moon".into()),
        ] {
            let failure = given(&source).await.unwrap_err();
            assert_eq!(failure.kind, RunErrorKind::Usage);
            assert!(failure.text.contains("testnet-staging, anvil"), "{failure}");
        }
    }

    #[tokio::test]
    async fn contracts_in_effect_are_named_with_the_setting_that_gives_them() {
        let flags = [
            ("contracts.settlement-chain.rpc-url", "http://127.0.0.1:1"),
            ("contracts.environment", "mainnet"),
            ("contracts.settlement-chain.node-registry-address", REGISTRY),
        ];
        let flags = flags.map(|(flag, value)| (flag.to_owned(), value.to_owned()));
        let settings = ContractSettings::read(&SettingSources::new(flags, Vec::new())).unwrap();
        let all = EffectiveContract::all(&settings).await.unwrap();
        assert!(all.len() >= Contract::ALL.len());
        let of = |contract| all.iter().find(|it| it.contract == contract).unwrap();
        let registry = of(Contract::NodeRegistry);
        assert_eq!(registry.address, REGISTRY);
        assert_eq!(registry.origin, "--contracts.settlement-chain.node-registry-address");
        let rates = of(Contract::RateRegistry);
        let mainnet = Addresses::of_environment("mainnet").unwrap();
        assert_eq!(rates.address, mainnet.rate_registry.to_string());
        assert_eq!(rates.origin, "the network mainnet");
    }

    #[tokio::test]
    async fn single_settings_replace_what_a_network_has() {
        let flags = [
            ("contracts.environment", "mainnet"),
            ("contracts.settlement-chain.node-registry-address", REGISTRY),
            ("contracts.app-chain.chain-id", "7"),
        ];
        let known = read(&flags, &NEEDED).await.unwrap();
        assert_eq!((known.settlement_id, known.app_id), (8453, 7));
        assert_eq!(known.contracts.get(Contract::NodeRegistry), REGISTRY.parse().ok());
        let mainnet = Addresses::of_environment("mainnet").unwrap();
        assert_eq!(known.contracts.get(Contract::RateRegistry), Some(mainnet.rate_registry));
    }

    /// The reference implementation reads such texts too: what a text lacks may come from settings.
    #[tokio::test]
    async fn a_text_may_lack_what_settings_give_or_nothing_needs() {
        let text = format!(r#"{{"settlementChainId":5,"rateRegistry":"{REGISTRY}"}}"#);
        let flags = [
            ("contracts.config-json", text.as_str()),
            ("contracts.settlement-chain.node-registry-address", REGISTRY),
            ("contracts.app-chain.group-message-broadcaster-address", REGISTRY),
            ("contracts.app-chain.chain-id", "7"),
        ];
        let known = read(&flags, &NEEDED).await.unwrap();
        assert_eq!((known.settlement_id, known.app_id), (5, 7));
        assert_eq!((known.settlement_first_block, known.app_first_block), (0, 0));
        assert_eq!(known.contracts.get(Contract::RateRegistry), REGISTRY.parse().ok());
        assert_eq!(known.contracts.get(Contract::PayerRegistry), None);
    }

    #[tokio::test]
    async fn everything_missing_is_told_at_once() {
        let text = format!(r#"{{"rateRegistry":"{REGISTRY}"}}"#);
        let error = read(&[("contracts.config-json", &text)], &NEEDED).await.unwrap_err();
        assert_eq!(error.kind, RunErrorKind::Usage);
        assert_eq!(
            error.text,
            "`settlementChainId`, `appChainId`, `nodeRegistry`, `groupMessageBroadcaster` missing in \
             --contracts.config-json: add what is missing, or give \
             --contracts.settlement-chain.node-registry-address, \
             --contracts.app-chain.group-message-broadcaster-address"
        );
        // Without a source the chains are those of a development network, and only addresses are missing.
        let error = read(&[], &NEEDED).await.unwrap_err();
        for part in [
            "not given, `nodeRegistry`, `rateRegistry`, `groupM",
            "--contracts.environment",
            "--contracts.config-file-path",
        ] {
            assert!(error.text.contains(part), "{part} is not in {error}");
        }
        assert_eq!(read(&[], &[]).await.unwrap().app_id, UNSET_CHAIN_ID);
    }

    #[tokio::test]
    async fn only_a_development_network_has_wallets_of_more_chains_than_the_protocol_names() {
        let wallets = |more: &[u64]| WalletSettings { rpcs: Vec::new(), more_chains: more.into() };
        for name in Addresses::ENVIRONMENTS {
            let known = read(&[("contracts.environment", name)], &[]).await.unwrap();
            assert!(known.check_wallets(&wallets(&[])).is_ok(), "{name}");
            assert!(
                known.check_wallets(&wallets(&[1, 8453])).is_ok(),
                "{name}: clients know these"
            );
            let more = known.check_wallets(&wallets(&[8453, 84_532]));
            assert_eq!(more.is_ok(), name == "anvil", "{name}");
        }
        // One chain that is not for development is enough.
        for flag in ["contracts.app-chain.chain-id", "contracts.settlement-chain.chain-id"] {
            let flags = [("contracts.environment", "anvil"), (flag, "7")];
            let known = read(&flags, &[]).await.unwrap();
            let refused = known.check_wallets(&wallets(&[1, 31_337])).unwrap_err();
            assert_eq!(refused.kind, RunErrorKind::Usage);
            assert!(refused.text.contains("--wallet-chains adds 31337 to"), "{refused}");
        }
    }

    #[tokio::test]
    async fn files_are_read_by_path_and_by_url() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.json");
        let path = path.to_str().unwrap();
        let absent = given(&AddressSource::Place(path.into())).await.unwrap_err();
        assert_eq!(absent.kind, RunErrorKind::NotFound);
        let mainnet = Addresses::of_environment("mainnet").unwrap();
        std::fs::write(path, mainnet.to_json().to_string()).unwrap();
        for place in [path.to_owned(), format!("file://{path}")] {
            let read = given(&AddressSource::Place(place)).await.unwrap();
            assert_eq!(Addresses::of(&read).unwrap(), mainnet);
        }
        std::fs::write(path, r#"{"feeToken":5}"#).unwrap();
        let wrong = given(&AddressSource::Place(path.into())).await.unwrap_err();
        assert_eq!(wrong.kind, RunErrorKind::Usage);
        assert!(wrong.text.contains("`feeToken` must be an address"), "{wrong}");
    }
}
