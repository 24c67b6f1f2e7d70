//! Writes one object in parts.

use std::io::{self, Write};

use hawser_storage::{NewObject, ObjectTag};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore as _, ObjectStoreExt as _, PutPayload, PutResult};

use super::connection::BucketConnection;

/// The length of a part in bytes. S3 requires at least 5 MiB, and some services require equal parts.
/// Memory is bounded by one part.
const PART_LEN_BYTES: usize = 8 << 20;
/// The largest number of parts of an object: S3's limit. The longest object therefore has 78 GiB;
/// RocksDB's files have some hundred MiB.
const PARTS_MAX: usize = 10_000;

/// A writer of one object, which is sent in one request if it fits into one part. The object appears under its
/// name when all parts have arrived.
pub(super) struct ObjectWriter<'a> {
    bucket: &'a BucketConnection,
    path: Path,
    part: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    parts: usize,
}

impl<'a> ObjectWriter<'a> {
    pub(super) fn new(bucket: &'a BucketConnection, path: Path) -> Self {
        Self { bucket, path, part: Vec::new(), upload: None, parts: 0 }
    }

    fn send_part(&mut self) -> io::Result<()> {
        if self.parts >= PARTS_MAX {
            let text = format!("it has more than {PARTS_MAX} parts of {PART_LEN_BYTES} bytes");
            return Err(io::Error::other(text));
        }
        if self.upload.is_none() {
            self.upload = Some(self.bucket.wait(self.bucket.store.put_multipart(&self.path))?);
        }
        if let Some(upload) = &mut self.upload {
            let part = std::mem::take(&mut self.part);
            self.bucket.wait(upload.put_part(PutPayload::from(part)))?;
            self.parts += 1;
        }
        Ok(())
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.len() >= PART_LEN_BYTES {
            self.send_part()?;
        }
        let taken = bytes.len().min(PART_LEN_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewObject for ObjectWriter<'_> {
    fn finish(mut self: Box<Self>) -> io::Result<Option<ObjectTag>> {
        if self.upload.is_some() {
            self.send_part()?;
        }
        let Some(upload) = &mut self.upload else {
            let whole = PutPayload::from(std::mem::take(&mut self.part));
            let options = object_store::PutOptions::default();
            let put = self.bucket.store.put_opts(&self.path, whole, options);
            return self.bucket.wait(put).map(tag_of);
        };
        let put = self.bucket.wait(upload.complete())?;
        self.upload = None;
        Ok(tag_of(put))
    }
}

fn tag_of(put: PutResult) -> Option<ObjectTag> {
    put.e_tag.as_deref().and_then(ObjectTag::new)
}

impl Drop for ObjectWriter<'_> {
    fn drop(&mut self) {
        if let Some(upload) = &mut self.upload {
            // Remaining parts occupy paid storage until the bucket's lifecycle rule removes them.
            let _ = self.bucket.wait_final(upload.abort());
        }
    }
}
