//! The sources of a replica: nodes that it asks as any reader may ask them.

use hawser_engine::ports::{NodeRecord, Registry};
use hawser_proto::OriginatorId;

/// The URLs that a replica follows. None of them means all nodes of the network.
#[derive(Debug)]
pub(crate) struct ReplicaSources {
    urls: Vec<String>,
}

/// The most URLs that are followed. A guess: a replica needs no more sources than a network has nodes.
const URLS_MAX: usize = 64;

impl ReplicaSources {
    /// Takes each URL once. Otherwise one server would be two sources that vouch for each other.
    pub(crate) fn new(named: Vec<String>) -> Self {
        let mut urls: Vec<String> = Vec::new();
        for url in named {
            if !urls.iter().any(|it| without_slash(it) == without_slash(&url)) {
                urls.push(url);
            }
        }
        urls.truncate(URLS_MAX);
        Self { urls }
    }

    /// Returns ids and URLs of the sources; `None` for all nodes of the network. A URL that the registry has
    /// for a node gets the id of that node. Any other URL gets an id that no node has.
    pub(crate) fn all(&self, registry: &Registry) -> Option<Vec<(OriginatorId, String)>> {
        if self.urls.is_empty() {
            return None;
        }
        let of_node = |url: &String| {
            let is_there = |address: &String| without_slash(address) == without_slash(url);
            let has_url = |it: &&NodeRecord| it.http_address.as_ref().is_some_and(is_there);
            registry.nodes().filter(|it| it.canonical).find(has_url).map(|it| it.id)
        };
        let id = |index, url| of_node(url).unwrap_or_else(|| stand_in(index));
        let urls = self.urls.iter().enumerate();
        Some(urls.map(|(index, url)| (id(index, url), url.clone())).collect())
    }

    /// Returns true for a URL that the operator has named. The registry may have another one for the same node by now.
    pub(crate) fn has(&self, url: &str) -> bool {
        self.urls.iter().any(|source| without_slash(source) == without_slash(url))
    }

    /// Returns the URL of a source that is no node of the registry.
    pub(crate) fn url(&self, source: OriginatorId) -> Option<&str> {
        let index = (OriginatorId::REPLICA.0 - 1).checked_sub(source.0)?;
        self.urls.get(usize::try_from(index).ok()?).map(String::as_str)
    }
}

/// The id of a source that is no node of the registry.
fn stand_in(index: usize) -> OriginatorId {
    OriginatorId(OriginatorId::REPLICA.0 - 1 - u32::try_from(index).expect("few sources"))
}

fn without_slash(url: &str) -> &str {
    url.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;

    use super::*;

    fn registry(canonical: bool) -> Registry {
        let public_key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        let record = NodeRecord {
            id: OriginatorId(200),
            public_key,
            owner: public_key.address(),
            http_address: Some("http://b:1".into()),
            quic_address: None,
            canonical,
        };
        [record].into_iter().collect()
    }

    #[test]
    fn a_url_of_the_registry_is_its_node_and_any_other_one_has_an_id_of_its_own() {
        let observed = ReplicaSources::new(vec!["http://a:1".into(), "http://b:1/".into()]);
        let ids = |registry| -> Vec<OriginatorId> {
            observed.all(&registry).unwrap().into_iter().map(|(id, _)| id).collect()
        };
        let [first, second] = ids(registry(true))[..] else { panic!("two") };
        assert_eq!(second, OriginatorId(200));
        assert_eq!(observed.url(first), Some("http://a:1"));
        assert_eq!(observed.url(second), None);
        let [_, left] = ids(registry(false))[..] else { panic!("two") };
        assert_eq!(observed.url(left), Some("http://b:1/"), "a node that has left");
        assert_eq!(observed.url(OriginatorId::REPLICA), None);
        assert!(observed.has("http://b:1") && observed.has("http://a:1/"));
        assert!(
            !observed.has("http://b:2"),
            "the registry may have it for a node that is followed"
        );
        assert_eq!(ReplicaSources::new(Vec::new()).all(&registry(true)), None);
    }

    /// A registry could otherwise make a server that is asked the own node of a strand.
    #[test]
    fn the_id_of_a_source_is_one_that_no_registry_assigns() {
        assert!((0..URLS_MAX).all(|index| !stand_in(index).is_assignable()));
        assert!(!OriginatorId::REPLICA.is_assignable());
    }

    #[test]
    fn a_url_that_is_named_twice_is_one_source() {
        let named = ["http://b:1", "http://a:1", "http://b:1/", "http://a:1"];
        let observed = ReplicaSources::new(named.map(str::to_owned).to_vec());
        let all = observed.all(&registry(true)).unwrap();
        let urls: Vec<_> = all.iter().map(|(_, url)| url.as_str()).collect();
        assert_eq!(urls, ["http://b:1", "http://a:1"]);
    }
}
