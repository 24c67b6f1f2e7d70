//! The name of a caller, and of its network.

use std::sync::Arc;

use hawser_serve::address::ClientAddress;
use hawser_validation::precheck::PrecheckCaller;

/// The name of a caller: an address, a claim of its token, the owner of its key, or the name that the webhook gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CallerId {
    pub(super) name: Arc<str>,
    /// The network of an address. One person may own all addresses of a network.
    network: Option<Arc<str>>,
}

impl CallerId {
    /// Creates the id of a caller that is no address, or of a tenant that counts as one.
    pub(crate) fn of_name(name: &str) -> Self {
        Self { name: name.into(), network: None }
    }

    /// Creates the id of a caller that is known by its address.
    pub(super) fn of_address(address: ClientAddress) -> Self {
        let network = Some(address.network().to_string().into());
        Self { name: address.to_string().into(), network }
    }

    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of the network; `None` if the caller is not known by its address.
    pub(super) fn network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// Returns the name of the network with which the caller takes turns. A caller that is not known by its address is
    /// a network of its own.
    pub(crate) fn network_name(&self) -> &Arc<str> {
        self.network.as_ref().unwrap_or(&self.name)
    }

    /// Returns the name of the site: the network of an IPv6 address, which may be one customer's, otherwise the caller
    /// itself.
    pub(crate) fn site_name(&self) -> &Arc<str> {
        let of_ipv6 = self.network.as_ref().filter(|network| network.contains(':'));
        of_ipv6.unwrap_or(&self.name)
    }

    /// Returns the caller as one of a tenant, as the check of identity updates knows it.
    pub(crate) fn of_tenant<'a>(&'a self, tenant: &'a str) -> PrecheckCaller<'a> {
        PrecheckCaller { tenant, network: self.network_name(), name: &self.name }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn addresses_that_may_have_one_owner_are_of_one_network() {
        let of = |text: &str| CallerId::of_address(text.parse::<IpAddr>().unwrap().into());
        let [one, same, other] = ["2001:db8:1:2::5", "2001:db8:1:3::5", "2001:db8:2:2::5"].map(of);
        assert_ne!(one.of_tenant("t").name, same.of_tenant("t").name);
        assert_eq!(one.of_tenant("t").network, same.of_tenant("t").network);
        assert_ne!(one.of_tenant("t").network, other.of_tenant("t").network);
        let named = CallerId::of_name("a");
        assert_eq!(named.network(), None);
        let of_tenant = PrecheckCaller { tenant: "t", network: "a", name: "a" };
        assert_eq!(named.of_tenant("t"), of_tenant);
    }

    #[test]
    fn a_site_is_an_address_of_ipv4_or_a_network_of_ipv6_or_a_name() {
        let of = |text: &str| CallerId::of_address(text.parse::<IpAddr>().unwrap().into());
        assert_eq!(of("2001:db8:1:2::5").site_name(), of("2001:db8:1:3::5").site_name());
        assert_ne!(of("2001:db8:1:2::5").site_name(), of("2001:db8:2:2::5").site_name());
        assert_ne!(of("192.0.2.1").site_name(), of("192.0.2.2").site_name());
        assert_eq!(&**of("::ffff:192.0.2.1").site_name(), "192.0.2.1");
        assert_eq!(&**CallerId::of_name("a:b").site_name(), "a:b");
    }
}
