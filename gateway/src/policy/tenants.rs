//! Tenants: groups of callers with a payer key, limits and bills of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::rules::Policy;

/// Largest number of tenants. A guess: each tenant has its own connections and calls to all nodes.
const TENANTS_MAX: usize = 64;
/// Largest length of a tenant's name in bytes. A guess: the name becomes part of file names and labels.
pub(super) const NAME_LEN_MAX: usize = 32;
/// The names that no tenant may have: the files of the gateway's payer end so, and those of a tenant end in its name.
const NAMES_OF_FILES: [&str; 4] = ["lock", "new", "on-chain", "spent"];

/// A tenant in the policy file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    /// File with the secret key of the account that pays for the tenant.
    pub payer_key_file: Option<PathBuf>,
    /// Environment variable with that key.
    pub payer_key_env: Option<String>,
    /// Names of the callers that belong to the tenant, if callers are identified by API keys.
    pub members: BTreeSet<String>,
    /// Policy of the tenant's callers that `callers` does not name.
    pub default: Policy,
    /// Name of the policy of each caller.
    pub callers: BTreeMap<String, String>,
    /// Limits of all callers of the tenant together.
    pub total: Policy,
}

/// A mistake in the tenants of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantsError {
    /// There are too many tenants.
    #[error("[tenants] has {0} tenants: at most {TENANTS_MAX} are allowed")]
    TooMany(usize),
    /// A name cannot be part of a file name.
    #[error(
        "[tenants.{0:?}]: a tenant's name must be 1 to {NAME_LEN_MAX} lower-case letters, digits and dashes"
    )]
    Name(String),
    /// The files of a tenant of this name would be other files of the gateway.
    #[error(
        "[tenants.{0}]: files of the gateway end in .{0}, so this tenant's would be the same ones: give it another name, \
         such as {0}-1"
    )]
    NameOfFiles(String),
    /// Callers are identified in a way that does not assign them to tenants.
    #[error("[tenants] needs identity.kind \"api-key\", \"jwt\" or \"webhook\"")]
    Identity,
    /// A tenant has no payer key, or two.
    #[error("[tenants.{0}] needs either payer_key_file or payer_key_env")]
    Key(String),
    /// A member has no API key.
    #[error("[tenants.{tenant}] has the member {member:?}, which is not among [identity.api_keys]")]
    NoMember {
        /// The tenant.
        tenant: String,
        /// The member.
        member: String,
    },
    /// A caller belongs to two tenants.
    #[error("{member:?} is a member of [tenants.{one}] and of [tenants.{other}]")]
    TwoTenants {
        /// The member.
        member: String,
        /// One tenant.
        one: String,
        /// The other one.
        other: String,
    },
    /// A caller of a tenant has a policy that the file does not define.
    #[error("[tenants.{tenant}.callers]: {caller:?} has a policy that is not among [policies.…]")]
    UnknownPolicy {
        /// The tenant.
        tenant: String,
        /// The caller.
        caller: String,
    },
    /// The limits of all callers of a tenant have a rule about single envelopes or requests.
    #[error(
        "[tenants.{0}.total] can only limit all callers together (those of the tenant) per minute, hour or day"
    )]
    Total(String),
    /// Neither a claim of the token nor the webhook names the tenant.
    #[error(
        "[tenants] and identity.kind \"jwt\" need identity.jwt.tenant_claim, or webhook.names_tenant = true"
    )]
    NoClaim,
}

/// Checks tenants against the policies and the API keys of their file.
///
/// # Errors
/// [`TenantsError`] for the first mistake.
pub(super) fn check(
    tenants: &BTreeMap<String, TenantSettings>,
    policies: &BTreeMap<String, Policy>,
    api_keys: &BTreeMap<String, Vec<String>>,
) -> Result<(), TenantsError> {
    if tenants.len() > TENANTS_MAX {
        return Err(TenantsError::TooMany(tenants.len()));
    }
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, tenant) in tenants {
        check_one(name, tenant, policies)?;
        for member in &tenant.members {
            if !api_keys.contains_key(member) {
                let (tenant, member) = (name.clone(), member.clone());
                return Err(TenantsError::NoMember { tenant, member });
            }
            if let Some(one) = owners.insert(member, name) {
                let (member, one, other) = (member.clone(), one.to_owned(), name.clone());
                return Err(TenantsError::TwoTenants { member, one, other });
            }
        }
    }
    Ok(())
}

fn check_one(
    name: &str,
    tenant: &TenantSettings,
    policies: &BTreeMap<String, Policy>,
) -> Result<(), TenantsError> {
    let is_plain =
        |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_plain) {
        return Err(TenantsError::Name(name.to_owned()));
    }
    if NAMES_OF_FILES.contains(&name) {
        return Err(TenantsError::NameOfFiles(name.to_owned()));
    }
    if tenant.payer_key_file.is_some() == tenant.payer_key_env.is_some() {
        return Err(TenantsError::Key(name.to_owned()));
    }
    let is_undefined = |(_, policy): &(&String, &String)| !policies.contains_key(*policy);
    if let Some((caller, _)) = tenant.callers.iter().find(is_undefined) {
        let (tenant, caller) = (name.to_owned(), caller.clone());
        return Err(TenantsError::UnknownPolicy { tenant, caller });
    }
    if !tenant.total.limits_rates_only() {
        return Err(TenantsError::Total(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::policy::config::PolicyFile;

    const KEYS: &str = "[identity]\nkind = \"api-key\"\n[identity.api_keys]\n\
        alice = \"sha256:0000000000000000000000000000000000000000000000000000000000000001\"\n";

    #[test]
    fn each_tenant_has_one_key_and_members_of_its_own() {
        let read = |text: &str| PolicyFile::parse(&format!("{KEYS}{text}"));
        let key = "payer_key_file = \"a.key\"\n";
        let good = read(&format!("[tenants.a]\n{key}members = [\"alice\"]\n")).unwrap();
        assert_eq!(good.tenants["a"].payer_key_file, Some("a.key".into()));
        for (text, part) in [
            ("[tenants.a]\n".to_owned(), "payer_key_file"),
            (format!("[tenants.a]\n{key}payer_key_env = \"A\"\n"), "payer_key_file"),
            (format!("[tenants.a]\n{key}members = [\"bob\"]\n"), "\"bob\""),
            (format!("[tenants.\"a/b\"]\n{key}"), "a/b"),
            (format!("[tenants.spent]\n{key}"), "another name, such as spent-1"),
            (format!("[tenants.on-chain]\n{key}"), "files of the gateway end in .on-chain"),
            (format!("[tenants.a]\n{key}[tenants.a.total]\ndeny = true\n"), "total"),
            (format!("[tenants.a]\n{key}[tenants.a.callers]\nalice = \"x\"\n"), "alice"),
            (
                format!(
                    "[tenants.a]\n{key}members = [\"alice\"]\n[tenants.b]\n{key}members = [\"alice\"]\n"
                ),
                "[tenants.a] and of [tenants.b]",
            ),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = PolicyFile::parse(&format!("[tenants.a]\n{key}")).unwrap_err().to_string();
        assert!(error.contains("api-key"), "{error}");
    }
}
