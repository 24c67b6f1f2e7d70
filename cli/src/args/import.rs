//! Arguments of `hawser import`: data of nodes of other software.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_node::settings::table::{DATABASE_ENV, DATABASE_FILE_ENV, DATABASE_NAME_ENV};
use zeroize::Zeroizing;

use super::NodeArgs;

/// `hawser import`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Read the database of a stopped xmtpd node into an empty data folder. Repeat the command after an interruption:
    /// it continues where it stopped.
    #[command(alias = "xmtpd-postgres")]
    Xmtpd(ImportXmtpdArgs),
}

/// `hawser import xmtpd`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Args)]
pub(crate) struct ImportXmtpdArgs {
    /// Connection string of the database, as xmtpd has it. Without this flag and the next one the command takes it from
    /// `XMTPD_DB_WRITER_CONNECTION_STRING`, and the name of the database from `XMTPD_DB_NAME_OVERRIDE` if that is set.
    /// With a password it is refused, because other users of this machine could see that, unless
    /// --allow-secret-flags is given.
    #[arg(long, value_name = "URL")]
    pub(crate) postgres: Option<String>,
    /// File with the connection string, readable by its owner only (`XMTPD_DB_WRITER_CONNECTION_STRING_FILE`).
    #[arg(long, value_name = "FILE", conflicts_with = "postgres")]
    pub(crate) postgres_file: Option<PathBuf>,
    /// Other nodes whose strands are left out, comma separated: the node takes them from its peers. For a node that
    /// has had xmtpd store what it has not signed.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) leave_out: Vec<u32>,
    /// Settings of the node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

impl ImportXmtpdArgs {
    /// Returns the connection string: from the flags, or else from the environment `env`.
    ///
    /// # Errors
    /// Fails if it is given in no way or in two ways, or if its file cannot be read or others can read it.
    pub(crate) fn connection_string(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Zeroizing<String>, RunError> {
        let of_env = |name| env(name).filter(|text| !text.is_empty());
        let by_flag = (self.postgres.clone(), self.postgres_file.clone());
        let given = match by_flag {
            (None, None) => (of_env(DATABASE_ENV), of_env(DATABASE_FILE_ENV).map(PathBuf::from)),
            by_flag => by_flag,
        };
        match given {
            (Some(text), None) => Ok(Zeroizing::new(text)),
            (None, Some(path)) => key::read_secret(&path).map_err(|error| error.at(&path)),
            (Some(_), Some(_)) => Err(RunError::usage(format!(
                "{DATABASE_ENV} and {DATABASE_FILE_ENV} are both given: keep one of them"
            ))),
            (None, None) => Err(RunError::usage(format!(
                "the connection string of the database is missing: give --postgres URL, --postgres-file FILE, \
                 {DATABASE_ENV} or {DATABASE_FILE_ENV}"
            ))),
        }
    }

    /// Returns the name of the database if the environment `env` gives one in place of that in its connection string,
    /// as for xmtpd. A string of the flags names its database itself.
    pub(crate) fn database_name(&self, env: impl Fn(&str) -> Option<String>) -> Option<String> {
        let is_by_flag = self.postgres.is_some() || self.postgres_file.is_some();
        env(DATABASE_NAME_ENV).filter(|name| !is_by_flag && !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser;
    use hawser_node::error::RunErrorKind;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: ImportXmtpdArgs,
    }

    fn read(flags: &[&str], env: &[(&str, &str)]) -> Result<String, RunError> {
        let given = ["import"].iter().chain(flags);
        let args = Only::try_parse_from(given).map_err(RunError::usage)?.args;
        let of_env = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        args.connection_string(of_env).map(|text| text.to_string())
    }

    #[test]
    fn the_environment_names_the_database_of_its_own_connection_string_alone() {
        let name = |flags: &[&str], value: Option<&str>| {
            let args = Only::try_parse_from(["import"].iter().chain(flags)).unwrap().args;
            args.database_name(|asked| {
                value.filter(|_| asked == DATABASE_NAME_ENV).map(str::to_owned)
            })
        };
        assert_eq!(name(&[], Some("xmtpd")).as_deref(), Some("xmtpd"));
        assert_eq!(name(&[], Some("")), None);
        assert_eq!(name(&[], None), None);
        assert_eq!(name(&["--postgres", "postgres://flag/x"], Some("xmtpd")), None);
        assert_eq!(name(&["--postgres-file", "/a"], Some("xmtpd")), None);
    }

    #[test]
    fn a_connection_string_may_stand_in_a_file_of_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        fs::write(&path, "postgres://me:secret@db/xmtpd\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = path.to_str().unwrap();
        let (text, of_file) = ("postgres://flag/x", "postgres://me:secret@db/xmtpd");
        let (env, env_file) = ((DATABASE_ENV, "postgres://env/x"), (DATABASE_FILE_ENV, file));
        for (flags, env, wanted) in [
            (&["--postgres", text][..], &[env][..], text),
            (&["--postgres-file", file], &[env], of_file),
            (&[], &[env], "postgres://env/x"),
            (&[], &[env_file, (DATABASE_ENV, "")], of_file),
        ] {
            assert_eq!(read(flags, env).unwrap(), wanted);
        }
        for (flags, env) in [
            (&[][..], &[][..]),
            (&[], &[env, env_file]),
            (&["--postgres", text, "--postgres-file", file], &[]),
        ] {
            let refused = read(flags, env).unwrap_err();
            assert_eq!(refused.kind, RunErrorKind::Usage);
            assert!(!refused.text.contains("secret"), "{refused}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = read(&["--postgres-file", file], &[]).unwrap_err();
        assert_eq!(exposed.kind, RunErrorKind::Refused);
    }
}
