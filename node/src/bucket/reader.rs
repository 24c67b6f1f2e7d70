//! Reads one object in blocks.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use futures_util::StreamExt as _;
use hawser_proto::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _};

use super::connection::BucketConnection;

/// The number of bytes per request. A guess: half of the longest response, so that memory stays small
/// and a lost connection costs little.
const BLOCK_LEN_BYTES: u64 = 8 << 20;

/// A reader of an object whose length has been looked up. The object must not change meanwhile.
pub(super) struct ObjectReader<'a> {
    bucket: &'a BucketConnection,
    path: Path,
    found: ObjectMeta,
    next: u64,
    block: Bytes,
}

impl<'a> ObjectReader<'a> {
    /// Opens an object and looks up its length.
    ///
    /// # Errors
    /// Fails when there is no such object, or when it is longer than `len_bytes_max`.
    pub(super) fn open(
        bucket: &'a BucketConnection,
        path: Path,
        len_bytes_max: u64,
    ) -> io::Result<Self> {
        let found = bucket.wait(bucket.store.head(&path))?;
        if found.size > len_bytes_max {
            let text = format!("it has {} bytes, and {len_bytes_max} are the most", found.size);
            return Err(io::Error::other(text));
        }
        Ok(Self { bucket, path, found, next: 0, block: Bytes::new() })
    }

    /// Requests a block and accepts exactly the requested length.
    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.found.e_tag.clone(),
            ..GetOptions::default()
        };
        let size = self.found.size;
        let block = self.bucket.wait(async {
            let answer = self.bucket.store.get_opts(&self.path, options).await?;
            if answer.range != range || answer.meta.size != size {
                return Ok(None);
            }
            let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let (mut stream, mut block) = (answer.into_stream(), Vec::new());
            while let Some(bytes) = stream.next().await {
                let bytes = bytes?;
                if block.len() + bytes.len() > wanted {
                    return Ok(None);
                }
                block.extend_from_slice(&bytes);
            }
            Ok((block.len() == wanted).then_some(block))
        })?;
        let text = "the service gave other bytes than those that were asked for";
        block.map(Bytes::from).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, text))
    }
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() && self.next < self.found.size {
            let end = self.found.size.min(self.next + BLOCK_LEN_BYTES);
            self.block = self.fetch(self.next..end)?;
            self.next = end;
        }
        let taken = self.block.split_to(buffer.len().min(self.block.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
