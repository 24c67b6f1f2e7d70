//! Deployment files that the operator need not write: the built-in ones of the deployed networks and of the reference
//! implementation's local chain, and those fetched from a URL.

use hawser_proto::root_cause;

use super::{Addresses, AddressesError, AddressesParseError, BYTES_MAX, GivenAddresses};
use crate::send::{AnswerBodyError, http_client, parse_url, read_body};

const FILES: [(&str, &str); 5] = [
    ("mainnet", include_str!("../../environments/mainnet.json")),
    ("testnet", include_str!("../../environments/testnet.json")),
    ("testnet-dev", include_str!("../../environments/testnet-dev.json")),
    ("testnet-staging", include_str!("../../environments/testnet-staging.json")),
    ("anvil", include_str!("../../environments/anvil.json")),
];

impl Addresses {
    /// The names of the networks whose files are built in: the deployed networks, and `anvil`, the local development
    /// chain of the reference implementation, which is both settlement and app chain.
    pub const ENVIRONMENTS: [&str; 5] =
        [FILES[0].0, FILES[1].0, FILES[2].0, FILES[3].0, FILES[4].0];

    /// Returns the built-in deployment with this name, one of [`Self::ENVIRONMENTS`]; `None` for any other name.
    #[must_use]
    pub fn of_environment(name: &str) -> Option<Self> {
        let given = GivenAddresses::of_environment(name)?;
        Some(Self::of(&given).expect("the tests read the same files"))
    }
}

impl GivenAddresses {
    /// Returns the built-in deployment with this name, one of [`Addresses::ENVIRONMENTS`]; `None` for any other name.
    #[must_use]
    pub fn of_environment(name: &str) -> Option<Self> {
        let (_, text) = FILES.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text).expect("the tests read the same files"))
    }

    /// Fetches a deployment file of at most 10 kB from an `http://` or `https://` URL. It may lack any key.
    ///
    /// # Errors
    /// [`AddressesError`] with the host, and with the key of the wrong value if there is one.
    pub async fn fetch(url: &str) -> Result<Self, AddressesError> {
        let (url, shown) = parse_url(url).map_err(|error| AddressesError::Fetch {
            url: "the file with the addresses".into(),
            reason: error.to_string(),
        })?;
        let failed = |reason: String| AddressesError::Fetch { url: shown.clone(), reason };
        let wrong = |source| AddressesError::Content { path: shown.clone().into(), source };
        let text = text(url).await.map_err(failed)?;
        Self::parse(&text).map_err(wrong)
    }
}

/// Fetches the body of a URL as text of at most `BYTES_MAX` bytes.
async fn text(url: reqwest::Url) -> Result<String, String> {
    let client = http_client().map_err(|error| root_cause(&error))?;
    let response = client.get(url).send().await.map_err(|error| root_cause(&error))?;
    let status = response.status();
    if !status.is_success() {
        // Who answers there would choose the contracts, perhaps over a connection without TLS.
        let hint = if status.is_redirection() { ": redirects are not followed" } else { "" };
        return Err(format!("HTTP status {}{hint}", status.as_u16()));
    }
    let bytes = read_body(response, BYTES_MAX).await.map_err(|error| match error {
        AnswerBodyError::TooLong => AddressesParseError::TooLong.to_string(),
        AnswerBodyError::Broken(error) => root_cause(&error),
    })?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors have the files of the reference node, and what the later files of the contracts change in them.
    #[test]
    fn the_files_that_are_built_in_are_the_latest_of_the_deployed_networks() {
        let text = include_str!("../../../tests/vectors/contracts/environments.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for name in Addresses::ENVIRONMENTS {
            let mut latest = vectors["environments"][name]["node"].as_object().unwrap().clone();
            if let Some(later) = vectors["environments"][name]["contracts_differs"].as_object() {
                latest.extend(later.clone());
            }
            let known = Addresses::of_environment(name).unwrap();
            assert_eq!(known.to_json(), serde_json::Value::Object(latest), "{name}");
        }
        assert_eq!(Addresses::of_environment("moon"), None);
    }

    /// No network but `anvil` lacks a key, and each is on its own two chains.
    #[test]
    fn every_network_has_all_addresses_and_the_ids_of_its_chains() {
        let chains = [
            ("mainnet", 8453, 241_320_162),
            ("testnet", 84532, 351_243_127),
            ("testnet-dev", 84532, 351_243_127),
            ("testnet-staging", 84532, 351_243_127),
            ("anvil", 31337, 31337),
        ];
        assert_eq!(chains.map(|(name, ..)| name), Addresses::ENVIRONMENTS);
        let mut registries = std::collections::BTreeSet::new();
        for (name, settlement, app) in chains {
            let known = Addresses::of_environment(name).unwrap();
            assert_eq!(
                (known.settlement_chain_id, known.app_chain_id),
                (settlement, app),
                "{name}"
            );
            let json = known.to_json();
            let zero = alloy::primitives::Address::ZERO.to_string();
            assert!(json.as_object().unwrap().values().all(|it| *it != zero.as_str()), "{name}");
            let deployed = name != "anvil";
            assert_eq!(json.as_object().unwrap().len(), if deployed { 21 } else { 20 }, "{name}");
            assert_eq!(known.deposit_splitter.is_some(), deployed, "{name}");
            let blocks =
                [known.settlement_chain_deployment_block, known.app_chain_deployment_block];
            assert!(blocks.into_iter().all(|block| (block > 0) == deployed), "{name}");
            assert!(registries.insert(known.node_registry), "{name} shares its registry");
        }
    }

    #[tokio::test]
    async fn a_served_file_is_read_up_to_the_bound() {
        let served = include_str!("../../environments/mainnet.json");
        let url = serve(served.to_owned()).await;
        let given = GivenAddresses::fetch(&url).await.unwrap();
        assert_eq!(Addresses::of(&given).ok(), Addresses::of_environment("mainnet"));
        let url = serve(" ".repeat(1_000_000)).await;
        let error = GivenAddresses::fetch(&url).await.unwrap_err().to_string();
        assert!(error.contains("more than 10240 bytes"), "{error}");
        let url = serve("[]".to_owned()).await;
        let error = GivenAddresses::fetch(&url).await.unwrap_err().to_string();
        assert!(error.contains("JSON object"), "{error}");
        assert!(GivenAddresses::fetch("http://127.0.0.1:1/x").await.is_err());
        assert!(GivenAddresses::fetch("ftp://host/x").await.is_err());
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let place = other.local_addr().unwrap();
        for status in [301, 302, 303, 307, 308] {
            let head = format!("{status} Moved\r\nlocation: http://{place}/chain.json");
            let url = answer(head, "{}".to_owned()).await;
            let error = GivenAddresses::fetch(&url).await.unwrap_err().to_string();
            let wanted = format!("HTTP status {status}: redirects are not followed");
            assert!(error.contains(&wanted), "{error}");
        }
        assert!(other.accept().is_err(), "no request goes there");
    }

    async fn serve(text: String) -> String {
        answer("200 OK".to_owned(), text).await
    }

    /// Starts a server that answers one request with this status, which headers may follow, and this text.
    async fn answer(status: String, text: String) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", text.len());
            // The reader closes the connection early when the text is too long.
            let _ = stream.write_all((head + &text).as_bytes()).await;
        });
        format!("http://{address}/chain.json")
    }
}
