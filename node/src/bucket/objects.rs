//! A bucket as a location of objects.

use std::io::{self, ErrorKind, Read};
use std::path::{Path as FilePath, PathBuf};

use hawser_storage::{FoundObject, HeldObjects, ListedObject, NewObject, ObjectTag, Objects};
use object_store::ObjectStoreExt as _;
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};

use super::connection::BucketConnection;
use super::lock::HeldBucket;
use super::reader::ObjectReader;
use super::settings::{BucketError, BucketSettings};
use super::writer::ObjectWriter;
use crate::requests::StopCheck;

/// The largest number of objects in a list. A guess: ten times the most files of a backup.
const LISTED_MAX: usize = 1_000_000;
/// The largest length of the names of a list together, in bytes. Computed: 128 for each of the most objects.
const LISTED_LEN_BYTES_MAX: usize = 128 * LISTED_MAX;
/// The largest number of pages of a list. A guess: a page of S3 has a thousand names; pages of other services may be
/// shorter.
const PAGES_MAX: usize = 5_000;

/// A bucket. Every call blocks, so it must not be used on an async task.
#[derive(Debug)]
pub struct BucketObjects {
    connection: BucketConnection,
}

impl BucketObjects {
    /// Prepares requests without sending any.
    ///
    /// # Errors
    /// [`BucketError`].
    pub fn new(settings: &BucketSettings, stop: StopCheck) -> Result<Self, BucketError> {
        Ok(Self { connection: BucketConnection::new(settings, stop)? })
    }

    /// Adds the objects of a page, with their names without the prefix.
    fn take_page(
        &self,
        folder: &str,
        page: Vec<object_store::ObjectMeta>,
        found: &mut Vec<ListedObject>,
    ) -> io::Result<()> {
        for object in page {
            let name = object.location.as_ref();
            let name = match self.connection.settings.prefix.as_str() {
                "" => Some(name),
                prefix => name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')),
            };
            // Web consoles create an empty object to represent a folder.
            if name == Some(folder) {
                continue;
            }
            let is_inside =
                |it: &&str| it.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            let name = name.filter(is_inside);
            let name =
                name.ok_or_else(|| io::Error::other("the list has an object of another folder"))?;
            if found.len() >= LISTED_MAX {
                return Err(io::Error::other(format!(
                    "the list has more than {LISTED_MAX} objects"
                )));
            }
            let (name, len_bytes) = (name.to_owned(), object.size);
            found.push(ListedObject { name, len_bytes, is_plain: true });
        }
        Ok(())
    }

    /// Requests one page of a list.
    fn page(
        &self,
        folder: &str,
        page_token: Option<String>,
        max_keys: Option<usize>,
    ) -> io::Result<(Vec<object_store::ObjectMeta>, Option<String>)> {
        let prefix = format!("{}/", self.connection.path(folder)?);
        let options = PaginatedListOptions { page_token, max_keys, ..Default::default() };
        let page =
            self.connection.wait(self.connection.store.list_paginated(Some(&prefix), options))?;
        Ok((page.result.objects, page.page_token.filter(|it| !it.is_empty())))
    }
}

impl Objects for BucketObjects {
    fn location(&self, name: &str) -> PathBuf {
        let place = self.connection.settings.name();
        PathBuf::from(if name.is_empty() { place } else { format!("{place}/{name}") })
    }

    fn folder(&self) -> Option<&FilePath> {
        None
    }

    fn has_folder(&self, folder: &str) -> io::Result<bool> {
        Ok(!self.page(folder, None, Some(1))?.0.is_empty())
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<FoundObject> {
        let found = self.connection.find(&self.connection.path(name)?)?;
        Ok(found.map_or(FoundObject::Absent, |it| FoundObject::Plain(it.size)))
    }

    fn tag(&self, name: &str) -> io::Result<Option<ObjectTag>> {
        let found = self.connection.find(&self.connection.path(name)?)?;
        Ok(found.and_then(|it| ObjectTag::new(it.e_tag.as_deref()?)))
    }

    fn open(&self, name: &str, len_bytes_max: u64) -> io::Result<Box<dyn Read + '_>> {
        let path = self.connection.path(name)?;
        Ok(Box::new(ObjectReader::open(&self.connection, path, len_bytes_max)?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewObject + '_>> {
        Ok(Box::new(ObjectWriter::new(&self.connection, self.connection.path(name)?)))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<ListedObject>> {
        let (mut found, mut token, mut len_bytes) = (Vec::<ListedObject>::new(), None, 0);
        for _ in 0..PAGES_MAX {
            let (objects, next) = self.page(folder, token, None)?;
            let before = found.len();
            self.take_page(folder, objects, &mut found)?;
            len_bytes += found[before..].iter().map(|it| it.name.len()).sum::<usize>();
            if len_bytes > LISTED_LEN_BYTES_MAX {
                let text =
                    format!("the names of the list have more than {LISTED_LEN_BYTES_MAX} bytes");
                return Err(io::Error::other(text));
            }
            if next.is_none() {
                // If a list contained an object twice, it would be removed twice.
                found.sort_unstable_by(|one, two| one.name.cmp(&two.name));
                found.dedup_by(|one, two| one.name == two.name);
                return Ok(found);
            }
            token = next;
        }
        Err(io::Error::other(format!("the list does not end after {PAGES_MAX} pages")))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.connection.path(name)?;
        match self.connection.wait(self.connection.store.delete(&path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> io::Result<Box<dyn HeldObjects + '_>> {
        Ok(Box::new(HeldBucket::new(&self.connection)?))
    }
}
