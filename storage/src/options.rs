//! Options of RocksDB.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompactionStyle,
    DBCompressionType, DBRecoveryMode, Env, InfoLogger, LogLevel, LruCacheOptions, Options,
    SliceTransform, UniversalCompactOptions,
};

use crate::family::Family;
use crate::keys::topic::prefix_len;

const MIB: usize = 1 << 20;

/// Memory of all memory tables together. They are most of the node's memory, and a start after a crash reads this
/// amount back. A guess: about a second of writing at full rate.
const WRITE_BUFFERS_BYTES: usize = 128 * MIB;
/// Smallest cache of a node for blocks, indexes and filters of all families, and the cache of commands that know
/// only the folder. A guess: indexes and filters of some ten million envelopes.
pub const CACHE_BYTES_MIN: usize = 64 * MIB;
/// Largest memory of the database for memory tables and blocks, with the smallest cache.
pub const BUFFERS_BYTES_MAX: usize = WRITE_BUFFERS_BYTES + CACHE_BYTES_MIN;
/// Total size of write-ahead logs at which RocksDB flushes the family that holds the oldest one back.
/// Bounds the time of a start after a crash, which reads them all. As much as the memory tables, which are written out
/// about then anyway: with twice as much, a start after a kill took up to 1.3 s on two slow cores (measured).
const WAL_BYTES_MAX: u64 = WRITE_BUFFERS_BYTES as u64;
/// Length of the memory tables of the log and of topics.
const LARGE_TABLE_BYTES: usize = 32 * MIB;
/// Length of the memory tables of families of which pruning writes a small row for each envelope. A full one begins a
/// new write-ahead log: the next commit syncs both logs, their folder and the manifest, and a thread that writes the
/// table out takes a core. Calculated: 32 MiB have the records of some 270,000 envelopes, more than a run of pruning
/// removes of a strand. With 8 MiB, pruning would delay commits so every half second.
/// [`WRITE_BUFFERS_BYTES`] bounds all memory tables together.
const PRUNED_TABLE_BYTES: usize = LARGE_TABLE_BYTES;
/// Length of the memory tables of other families. A guess.
const TABLE_BYTES: usize = 8 * MIB;
/// Envelopes of at least this length go to blob files, which compaction does not move. Guessed: RocksDB
/// recommends blobs from some KiB on, and most envelopes are below.
pub(crate) const BLOB_LEN_BYTES_MIN: u64 = 4096;
/// Part of the blob files, from the oldest on, out of which compactions move the envelopes that are left. RocksDB's
/// default.
pub(crate) const LARGE_AGE_MOVED: f64 = 0.25;
/// Age in seconds at which the rows of a file are compacted, however few are deletions. RocksDB's default. A file of
/// topics is compacted with all other files of that family. A file of any other family above the lowest level is
/// compacted with the levels below it. So the room of a pruned envelope below [`BLOB_LEN_BYTES_MIN`] is free a month
/// later, apart from the time that compactions take.
const AGE_MAX_S: u64 = 30 * 24 * 3600;
/// 2^3 shards of at least 8 MiB. The default shards are so small that a large block finds no room and is read
/// from disk each time (measured: 3,800 instead of 270,000 lookups per second).
const BLOCK_CACHE_SHARD_BITS: i32 = 3;
/// Number of sorted runs of the topic family at which some are merged: a page reads each run that may have its
/// topic. Measured with 600,000 envelopes of 720 bytes: with 12 a page took half as long again, and a twentieth
/// less was written.
const TOPIC_RUNS_MAX: i32 = 8;
/// Percent by which the next older run may be larger than those before it and is still merged with them. A
/// guess: runs that are nearly of one size are one tier.
const TIER_SIZE_RATIO_PERCENT: i32 = 10;
/// Length of a block of the topic family. A guess: twenty messages, so a page of a hundred takes five blocks
/// that are used whole.
const TOPIC_BLOCK_BYTES: usize = 16 << 10;
/// A file is compacted because of deletions if a window of this many rows has this many deletions, or if deletions
/// are this share of the file. A guess: half of the rows that a scan reads are then wasted.
const DELETIONS: (usize, usize, f64) = (8192, 4096, 0.5);
/// Window and deletions of the topic family; its share of 0 is not looked at. A file of this family overlaps all of the
/// next older run, so compacting it rewrites that run, at worst all topics. A guess: the compaction then removes rows
/// of some 200 MB. Pruning of some strands deletes fewer rows; its files wait until they are merged with others, as all
/// files of this family do, or until they are [`AGE_MAX_S`] old.
const TOPIC_DELETIONS: (usize, usize, f64) = (1 << 19, 1 << 18, 0.0);
/// Table files that RocksDB keeps open for commands that know only the folder. Guessed.
pub(crate) const OPEN_FILES_MAX: usize = 512;

/// Returns the options of the whole database.
///
/// Recovery of the write-ahead log tolerates a torn tail only. A record that the file ends within was never
/// acknowledged and is dropped. Damage before that means that acknowledged envelopes are lost, and opening fails.
/// Point-in-time recovery would silently drop everything after the damage, and this node would issue the same
/// sequence ids again. Absolute consistency would refuse a torn tail too, and with it the restart after any crash
/// during a write. The manifest records synced logs, so that a missing or shortened one is refused as well.
pub(crate) fn database(env: Option<&Env>, open_files_max: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(i32::try_from(open_files_max).unwrap_or(i32::MAX));
    // Table files are synced while they grow, so that a commit's sync does not wait for them.
    options.set_bytes_per_sync(MIB as u64);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    if let Some(env) = env {
        options.set_env(env);
        // The default of sixteen threads for each family would be most of the time to open an in-memory database.
        options.set_max_file_opening_threads(1);
        // The log of an in-memory database goes with it, so no program reads it. The default logger keeps headers at
        // every level: the options of the database and of ten families, about a thousand lines for each open. A new
        // database's folder does not exist in memory yet, which RocksDB reports as an error at each open.
        options.set_info_logger(InfoLogger::new_stderr_logger(LogLevel::Fatal, None::<&str>));
    }
    options
}

/// Returns the block cache that all families share.
pub(crate) fn block_cache(bytes: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(BLOCK_CACHE_SHARD_BITS);
    Cache::new_lru_cache_opts(&options)
}

/// Returns a family's descriptor for opening. `is_held` pauses its compactions.
pub(crate) fn descriptor(family: Family, cache: &Cache, is_held: bool) -> ColumnFamilyDescriptor {
    let mut options = family_options(family, cache);
    options.set_disable_auto_compactions(is_held);
    ColumnFamilyDescriptor::new(family.name(), options)
}

/// Returns the options of a family.
pub(crate) fn family_options(family: Family, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(TABLE_BYTES);
    options.set_ttl(AGE_MAX_S);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Partitioned indexes and filters, so that the cache holds only their used parts.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(4 << 10);
    blocks.set_pin_top_level_index_and_filter(true);
    match family {
        Family::Log => tune_log(&mut options, &mut blocks),
        Family::Topic => tune_topic(&mut options, &mut blocks),
        Family::Receipt => tune_receipt(&mut options, &mut blocks),
        // Hashes do not compress, and keys ascend.
        Family::Leaf | Family::Tree => options.set_compression_type(DBCompressionType::None),
        Family::Inbox | Family::Usage | Family::UsageByPayer => {
            blocks.set_bloom_filter(10.0, false)
        }
        Family::Expiry | Family::Pruned => options.set_write_buffer_size(PRUNED_TABLE_BYTES),
        Family::Checkpoint
        | Family::Mark
        | Family::Rate
        | Family::Ledger
        | Family::Misbehavior
        | Family::MisbehaviorFact
        | Family::MisbehaviorReport
        | Family::MisbehaviorReportFact
        | Family::PayerReport
        | Family::Cursor
        | Family::Congestion
        | Family::Reprice
        | Family::Membership
        | Family::Meta => {}
    }
    if matches!(family, Family::Log | Family::Topic | Family::Expiry | Family::Receipt) {
        // Pruning deletes rows of these families: a file that is mostly deletions is compacted regardless of its
        // size.
        let is_topic = family == Family::Topic;
        let (window, deletions, share) = if is_topic { TOPIC_DELETIONS } else { DELETIONS };
        options.add_compact_on_deletion_collector_factory(window, deletions, share);
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Tunes the log. Envelopes are ciphertext, which does not compress; large ones stay out of compaction.
/// There is no bloom filter: keys ascend, so files hardly overlap, and lookups nearly always hit
/// (measured: a page of 100 takes 8 % less CPU time without).
fn tune_log(options: &mut Options, blocks: &mut BlockBasedOptions) {
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(LARGE_TABLE_BYTES);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_LEN_BYTES_MIN);
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(LARGE_AGE_MOVED);
    blocks.set_block_size(8 << 10);
}

/// Tunes the topic index. Many requested topics have no rows; filters over the topic part of the key show this
/// without a read. The rows hold ciphertext, which does not compress. Topics arrive in no order, so levels would
/// rewrite each row about ten times; tiers rewrite it once for each eightfold growth
/// (`docs/decisions/0018-envelopes-beside-topics.md`).
fn tune_topic(options: &mut Options, blocks: &mut BlockBasedOptions) {
    options.set_write_buffer_size(LARGE_TABLE_BYTES);
    options.set_compression_type(DBCompressionType::None);
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_level_zero_file_num_compaction_trigger(TOPIC_RUNS_MAX);
    let mut tiers = UniversalCompactOptions::default();
    tiers.set_size_ratio(TIER_SIZE_RATIO_PERCENT);
    options.set_universal_compaction_options(&tiers);
    options.set_prefix_extractor(SliceTransform::create(
        "hawser.topic",
        |key| prefix_len(key).map_or(key, |len| &key[..len]),
        Some(|key| prefix_len(key).is_some()),
    ));
    options.set_memtable_prefix_bloom_ratio(0.05);
    blocks.set_block_size(TOPIC_BLOCK_BYTES);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(false);
}

/// Tunes receipts. Digests are random, and nearly every lookup is for a new one.
fn tune_receipt(options: &mut Options, blocks: &mut BlockBasedOptions) {
    options.set_compression_type(DBCompressionType::None);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    blocks.set_bloom_filter(10.0, false);
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, WaitForCompactOptions};

    use super::*;

    /// Returns the number of table files after rows were written, compacted, deleted and written out, and compactions
    /// have come to rest.
    fn files_of_deleted(family: Family) -> usize {
        const ROWS: u64 = 10_000;
        let folder = tempfile::tempdir().unwrap();
        let mut options = family_options(family, &block_cache(CACHE_BYTES_MIN));
        options.create_if_missing(true);
        let db = DB::open(&options, folder.path()).unwrap();
        // A topic of one byte, an originator and a place.
        let key = |row: u64| [&[0_u8, 1, 7, 0, 0, 0, 100][..], &row.to_be_bytes()].concat();
        (0..ROWS).for_each(|row| db.put(key(row), b"an envelope").unwrap());
        db.flush().unwrap();
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        (0..ROWS).for_each(|row| db.delete(key(row)).unwrap());
        db.flush().unwrap();
        db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
        db.live_files().unwrap().len()
    }

    /// Each run of pruning would rewrite the next run of the topic family, beside publishes that wait for the disk.
    #[test]
    fn some_deleted_rows_rewrite_no_run_of_topics_and_give_back_the_room_of_other_families() {
        assert_eq!(files_of_deleted(Family::Topic), 2, "the run, and the deletions");
        assert_eq!(files_of_deleted(Family::Expiry), 0);
        assert_eq!(files_of_deleted(Family::Log), 0);
    }

    /// Otherwise some room would never be given back where little is written.
    #[test]
    fn rows_of_a_month_are_compacted_however_few_are_deleted() {
        for (family, name) in [
            (Family::Topic, "periodic_compaction_seconds"),
            (Family::Log, "ttl"),
            (Family::Expiry, "ttl"),
            (Family::Receipt, "ttl"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut options = family_options(family, &block_cache(CACHE_BYTES_MIN));
            options.create_if_missing(true);
            let _db = DB::open(&options, folder.path()).unwrap();
            // RocksDB writes down the options that are in force.
            let in_force = std::fs::read_dir(folder.path()).unwrap().find_map(|file| {
                let path = file.unwrap().path();
                let is_it = path.file_name()?.to_str()?.starts_with("OPTIONS-");
                is_it.then(|| std::fs::read_to_string(&path).unwrap())
            });
            let wanted = format!("\n  {name}={AGE_MAX_S}\n");
            assert!(in_force.unwrap().contains(&wanted), "{}", family.name());
        }
    }

    /// Each memory table that is written out makes a commit wait for four syncs in place of one, beside publishes.
    #[test]
    fn a_run_of_pruning_fills_no_memory_table_with_records_or_deletions() {
        // As many as a run removes of a strand by default, with rows as long as records.
        const ROWS: u64 = 100_000;
        for family in [Family::Expiry, Family::Pruned] {
            let folder = tempfile::tempdir().unwrap();
            let mut options = family_options(family, &block_cache(CACHE_BYTES_MIN));
            options.create_if_missing(true);
            let db = DB::open(&options, folder.path()).unwrap();
            (0..ROWS).for_each(|row| db.put(row.to_be_bytes(), [7_u8; 90]).unwrap());
            db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
            assert_eq!(db.live_files().unwrap().len(), 0, "{}", family.name());
        }
    }
}
