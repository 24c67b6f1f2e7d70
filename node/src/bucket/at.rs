//! A folder or a bucket, as an operator names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hawser_chain::index::display_url;
use hawser_storage::{FolderObjects, Objects};
use serde::{Deserialize, Serialize};

use super::objects::BucketObjects;
use super::settings::BucketSettings;
use crate::error::RunError;
use crate::requests::StopCheck;

/// The location of objects: a folder of this machine, or a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectsAt {
    /// A folder, as an absolute path, because a running node's working folder differs from its command's.
    Folder(PathBuf),
    /// A bucket, with the credentials of the operator who sends the request.
    Bucket(Box<BucketSettings>),
}

impl ObjectsAt {
    /// Parses the name of a folder or a bucket; a bucket also uses environment variables.
    ///
    /// # Errors
    /// Fails when the name is neither, or when the bucket's settings are invalid. Also for a name like `s3:/BUCKET`: as
    /// a folder it would get what its operator believes to be in the bucket.
    pub fn new(given: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, RunError> {
        let text = given.to_string_lossy();
        if BucketSettings::is_name(&text) {
            let settings = BucketSettings::new(&text, variable).map_err(RunError::usage)?;
            return Ok(Self::Bucket(Box::new(settings)));
        }
        if text.contains("://") {
            return Err(RunError::usage(format!(
                "{:?} is neither a folder nor s3://BUCKET/PREFIX",
                display_url(&text)
            )));
        }
        if text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("s3:")) {
            let text = "a bucket is named s3://BUCKET/PREFIX, and a folder whose name begins with s3: is named ./s3:…";
            return Err(RunError::usage(text));
        }
        std::path::absolute(given).map(Self::Folder).map_err(RunError::usage)
    }

    /// Opens the location. A bucket is not contacted yet; `stop` ends waiting for it later.
    ///
    /// # Errors
    /// Fails when the settings of a bucket are invalid.
    pub fn open(&self, stop: StopCheck) -> Result<Arc<dyn Objects>, RunError> {
        Ok(match self {
            Self::Folder(path) => Arc::new(FolderObjects::new(path)),
            Self::Bucket(settings) => {
                Arc::new(BucketObjects::new(settings, stop).map_err(RunError::usage)?)
            }
        })
    }
}

impl std::fmt::Display for ObjectsAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket(settings) => f.write_str(&settings.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RunErrorKind;

    #[test]
    fn a_bucket_with_a_typing_error_is_not_taken_for_a_folder() {
        let at = |given: &str| ObjectsAt::new(Path::new(given), &|_| None);
        for given in ["s3:/bucket/node", "s3:bucket", "S3:/bucket", "S3://bucket", "gs://bucket"] {
            assert_eq!(at(given).unwrap_err().kind, RunErrorKind::Usage, "{given}");
        }
        let folder = std::path::absolute("./s3:bucket").unwrap();
        assert_eq!(at("./s3:bucket").unwrap(), ObjectsAt::Folder(folder));
    }
}
