//! How RocksDB is set up. Numbers are guesses unless they say otherwise.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBRecoveryMode, Env, LogLevel, LruCacheOptions, Options, SliceTransform,
};

use crate::family::Family;
use crate::keys::topic::prefix_len;

const MIB: usize = 1 << 20;

/// All memory tables together. They are what a crash has to read back, and most of the memory.
const WRITE_BUFFERS_BYTES: usize = 128 * MIB;
/// Blocks, indexes and filters of all families together.
const BLOCK_CACHE_BYTES: usize = 64 * MIB;
/// Bounds the time to start after a crash: a rarely written family is written out once the
/// write-ahead logs it holds back take this much.
const WAL_BYTES_MAX: u64 = 256 * MIB as u64;
/// Envelopes from here on go to blob files, which compaction does not move.
const BLOB_LEN_BYTES_MIN: u64 = 4096;
/// 2^3 parts of 8 MiB. By default they would be so small that a large block never finds room, and
/// is read from disk each time (measured: 3800 instead of 270000 lookups per second).
const BLOCK_CACHE_SHARD_BITS: i32 = 3;
/// A node has at least 4096 descriptors; sockets need theirs.
const OPEN_FILES_MAX: i32 = 1024;

/// Options of the whole database.
///
/// The write-ahead log is recovered in the mode that tolerates a torn tail only. A record that
/// the file ends within was never acknowledged, and is dropped. Damage before that means that
/// acknowledged envelopes are lost: opening then fails, whereas point-in-time recovery would drop
/// everything behind the damage in silence and let this node give the same sequence ids out
/// again. Absolute consistency would refuse a torn tail as well, and with it the restart after
/// any crash in mid-write. Older logs that were synced are noted in the manifest, so that one of
/// them that went missing or became shorter is refused, too.
pub(crate) fn database(env: Option<&Env>) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    // Files are written back while they grow, so that a commit's sync does not wait for them.
    options.set_bytes_per_sync(MIB as u64);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    if let Some(env) = env {
        options.set_env(env);
    }
    options
}

/// The block cache that all families share.
pub(crate) fn block_cache() -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(BLOCK_CACHE_BYTES);
    options.set_num_shard_bits(BLOCK_CACHE_SHARD_BITS);
    Cache::new_lru_cache_opts(&options)
}

/// Options of each family of this format.
pub(crate) fn descriptor(family: Family, cache: &Cache) -> ColumnFamilyDescriptor {
    ColumnFamilyDescriptor::new(family.name(), family_options(family, cache))
}

pub(crate) fn family_options(family: Family, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(8 * MIB);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Indexes and filters in parts, so that the cache holds what is used of them and no more.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(4 << 10);
    blocks.set_pin_top_level_index_and_filter(true);
    match family {
        Family::Log => tune_log(&mut options, &mut blocks),
        Family::Topic => tune_topic(&mut options, &mut blocks),
        Family::Receipt => tune_receipt(&mut options, &mut blocks),
        Family::Inbox | Family::Usage | Family::UsageByPayer => {
            blocks.set_bloom_filter(10.0, false)
        }
        Family::Expiry
        | Family::Mark
        | Family::Rate
        | Family::Ledger
        | Family::Cursor
        | Family::Congestion
        | Family::Meta => {}
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Envelopes are ciphertext, which does not compress. Large ones are kept out of compaction. There is
/// no filter: keys ascend, so files hardly overlap, and what is sought is nearly always there
/// (measured: a page of 100 takes 8 % less CPU time without).
fn tune_log(options: &mut Options, blocks: &mut BlockBasedOptions) {
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(32 * MIB);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_LEN_BYTES_MIN);
    options.set_enable_blob_gc(true);
    blocks.set_block_size(8 << 10);
}

/// Topics are sought, and many that are sought have no rows: filters over the topic part of the
/// key tell so without reading.
fn tune_topic(options: &mut Options, blocks: &mut BlockBasedOptions) {
    options.set_write_buffer_size(16 * MIB);
    options.set_prefix_extractor(SliceTransform::create(
        "hawser.topic",
        |key| prefix_len(key).map_or(key, |len| &key[..len]),
        Some(|key| prefix_len(key).is_some()),
    ));
    options.set_memtable_prefix_bloom_ratio(0.05);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(false);
}

/// Digests are random, and nearly all that are looked up are new.
fn tune_receipt(options: &mut Options, blocks: &mut BlockBasedOptions) {
    options.set_compression_type(DBCompressionType::None);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    blocks.set_bloom_filter(10.0, false);
}
