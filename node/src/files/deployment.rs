//! The addresses of the contracts of both chains: from a file, its text, the name of a deployed
//! network, and individual settings.

use std::path::PathBuf;

use hawser_chain::addresses::{Addresses, AddressesError};
use hawser_chain::admin::Contracts;

use crate::error::{RunError, RunErrorKind};
use crate::settings::table::chains::UNSET_CHAIN_ID;
use crate::settings::{AddressSource, ChainAccessSettings, ContractSettings};

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
    /// Reads the configured source of addresses. Individually configured ids and addresses take precedence.
    ///
    /// # Errors
    /// Fails when the source cannot be read, or is not a deployment.
    pub async fn of(settings: &ContractSettings) -> Result<Self, RunError> {
        let file = match &settings.source {
            Some(source) => Some(addresses(source).await?),
            None => None,
        };
        let id = |said: &ChainAccessSettings, in_file: fn(&Addresses) -> u64| {
            said.id.or(file.as_ref().map(in_file)).unwrap_or(UNSET_CHAIN_ID)
        };
        let block = |in_file: fn(&Addresses) -> u64| file.as_ref().map(in_file).unwrap_or_default();
        let mut contracts = file.as_ref().map(Contracts::from).unwrap_or_default();
        contracts.set_all(&settings.single);
        Ok(Self {
            settlement_id: id(&settings.settlement, |file| file.settlement_chain_id),
            settlement_first_block: block(|file| file.settlement_chain_deployment_block),
            app_id: id(&settings.app, |file| file.app_chain_id),
            app_first_block: block(|file| file.app_chain_deployment_block),
            contracts,
        })
    }
}

async fn addresses(source: &AddressSource) -> Result<Addresses, RunError> {
    match source {
        AddressSource::Place(place) => at_place(place).await,
        AddressSource::Text(text) => Addresses::parse(text)
            .map_err(|fault| RunError::usage(format!("--contracts.config-json: {fault}"))),
        AddressSource::Environment(name) => of_environment(name),
    }
}

async fn at_place(place: &str) -> Result<Addresses, RunError> {
    if let Some(name) = place.strip_prefix("config://") {
        return of_environment(name);
    }
    let read = if place.starts_with("http://") || place.starts_with("https://") {
        Addresses::fetch(place).await
    } else {
        Addresses::read(&path_of(place))
    };
    read.map_err(|error| RunError { kind: reason(&error), text: error.to_string() })
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

fn of_environment(name: &str) -> Result<Addresses, RunError> {
    Addresses::of_environment(name).ok_or_else(|| {
        let known = Addresses::ENVIRONMENTS.join(", ");
        RunError::usage(format!("no environment is called {name:?}; there are {known}"))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::SettingSources;

    #[test]
    fn a_file_may_be_given_as_a_url() {
        assert_eq!(path_of("file:///etc/my%20net/chain.json"), Path::new("/etc/my net/chain.json"));
        assert_eq!(path_of("/etc/my%20net/chain.json"), Path::new("/etc/my%20net/chain.json"));
        assert_eq!(path_of("file://chain.json"), Path::new("chain.json"));
    }

    #[tokio::test]
    async fn a_network_is_found_by_its_name_in_both_settings() {
        for (name, id) in [("testnet", 84532), ("anvil", 31337)] {
            for source in [
                AddressSource::Environment(name.into()),
                AddressSource::Place(format!("config://{name}")),
            ] {
                assert_eq!(addresses(&source).await.unwrap().settlement_chain_id, id, "{name}");
            }
        }
        for source in [
            AddressSource::Environment("moon".into()),
            AddressSource::Place("config://moon".into()),
        ] {
            let failure = addresses(&source).await.unwrap_err();
            assert_eq!(failure.kind, RunErrorKind::Usage);
            assert!(failure.text.contains("testnet-staging, anvil"), "{failure}");
        }
    }

    /// The reference implementation's local chain has both roles. Its chain id is treated as not configured.
    #[tokio::test]
    async fn the_local_chain_of_the_reference_is_both_chains() {
        let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let flags = [
            flag("contracts.settlement-chain.rpc-url", "http://127.0.0.1:8545"),
            flag("contracts.app-chain.rpc-url", "http://127.0.0.1:8545"),
        ];
        let env = [flag("XMTPD_CONTRACTS_ENVIRONMENT", "anvil")];
        let settings = SettingSources::new(flags, env);
        let settings = ContractSettings::read(&settings).unwrap();
        let known = KnownDeployment::of(&settings).await.unwrap();
        assert_eq!((known.settlement_id, known.app_id), (31337, 31337));
        let registry = known.contracts.get(hawser_chain::admin::Contract::NodeRegistry);
        let expected = "0xd19F631634Bdb0e31217Ee22139025B75Ce6EA5C";
        assert_eq!(registry.map(|address| address.to_string()).as_deref(), Some(expected));
    }

    #[tokio::test]
    async fn files_are_read_by_path_and_by_url() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain.json");
        let path = path.to_str().unwrap();
        let absent = addresses(&AddressSource::Place(path.into())).await.unwrap_err();
        assert_eq!(absent.kind, RunErrorKind::NotFound);
        let mainnet = Addresses::of_environment("mainnet").unwrap();
        std::fs::write(path, mainnet.to_json().to_string()).unwrap();
        for place in [path.to_owned(), format!("file://{path}")] {
            assert_eq!(addresses(&AddressSource::Place(place)).await.unwrap(), mainnet);
        }
        std::fs::write(path, "{}").unwrap();
        let wrong = addresses(&AddressSource::Place(path.into())).await.unwrap_err();
        assert_eq!(wrong.kind, RunErrorKind::Usage);
        assert!(wrong.text.contains("is missing"), "{wrong}");
    }
}
