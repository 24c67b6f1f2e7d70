//! The usage of each caller by hour and kind, for bills and for finding the callers with the highest usage.
//!
//! A plain value in memory; time is an argument. A restart loses it, so an operator who bills callers has to read
//! it every hour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Bound;

use hawser_proto::date::date_text;
use hawser_rules::{PayloadClass, PicoDollarPrice};
use parking_lot::Mutex;

/// Hours that are kept, the current one included. A guess: the operator's collector may be down for a weekend.
const HOURS_MAX: usize = 72;
/// Most memory for the rows of all hours. Chosen: some 7,000 short names in each hour, and a small part of the memory
/// of a gateway.
const TABLE_BYTES_MAX: usize = 128 << 20;
/// Part of the memory that other hours leave which one hour may take; each tenant has an equal share. So callers that
/// make up names for hours leave rows to the callers of later hours. A guess: 16 MiB for an hour after quiet ones. The
/// operator's policies name few callers, so these may take the rest.
const HOUR_PART: usize = 8;
/// Most memory of a row beside its caller's name. Calculated: 56 bytes of key and usage, twice that and more where
/// nodes of the map are half full, and what the allocator adds.
const ROW_BYTES: usize = 192;
/// The text that stands for all callers of a tenant beyond its share of an hour.
const OTHERS: &str = "(others)";
const HOUR_S: u64 = 3600;
/// Largest number of rows of a piece of the CSV text. A guess: a thread writes them within a millisecond.
const PIECE_ROWS_MAX: usize = 1000;
/// The first line of the CSV text.
const COLUMNS: &str = "hour,caller,kind,envelopes,bytes,picodollars,gas,tenant\r\n";

/// An amount of usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) envelopes: u64,
    /// Bytes of client envelopes.
    pub(crate) bytes: u64,
    /// Fees of nodes, and gas at its price when the transaction was sent.
    pub(crate) picodollars: PicoDollarPrice,
    pub(crate) gas: u64,
}

impl Usage {
    fn add(&mut self, more: Self) {
        self.envelopes = self.envelopes.saturating_add(more.envelopes);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.picodollars = self.picodollars.plus(more.picodollars);
        self.gas = self.gas.saturating_add(more.gas);
    }
}

/// Usage by caller, kind and tenant; the tenant is empty without tenants.
type Rows = BTreeMap<(Box<str>, PayloadClass, Box<str>), Usage>;

/// Caller and kind of a row. A row without a caller has the usage of all callers of a tenant for whom the tenant's
/// share of an hour has no room. Such rows are not counted: there is one for each hour, tenant and kind at most.
type RowKey = (Option<Box<str>>, PayloadClass);

/// Usage of a tenant's callers in an hour.
#[derive(Debug, Default)]
struct TenantRows {
    usages: BTreeMap<RowKey, Usage>,
    /// Their memory by [`ROW_BYTES`] and names, without the rows that have no caller.
    bytes: usize,
}

/// Rows of an hour by tenant.
type HourRows = BTreeMap<Box<str>, TenantRows>;

fn bytes_of(hour: &HourRows) -> usize {
    hour.values().map(|rows| rows.bytes).sum()
}

/// The place of a row in the table.
#[derive(Debug)]
struct RowPlace {
    hour: u64,
    tenant: Box<str>,
    key: RowKey,
}

/// A row of the table in its place.
#[derive(Debug, Clone, Copy)]
struct PlacedUsage<'a> {
    hour: u64,
    tenant: &'a str,
    key: &'a RowKey,
    usage: &'a Usage,
}

/// A sum of usage since the start.
#[derive(Debug)]
pub(crate) struct UsageTotal {
    /// A caller that the policies name; empty for the sum of all others.
    pub(crate) caller: String,
    pub(crate) kind: &'static str,
    /// Empty without tenants.
    pub(crate) tenant: String,
    pub(crate) usage: Usage,
}

/// The usage of all callers.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Rows by hour, counted from 1970-01-01T00:00Z, and by tenant.
    hours: BTreeMap<u64, HourRows>,
    /// Memory of the rows of all hours, at most [`TABLE_BYTES_MAX`].
    bytes: usize,
    /// Number of tenants; 0 for a gateway without tenants.
    tenants: usize,
    /// The callers that have time series of their own: those that the operator's policies name. Other callers would
    /// create an unbounded number.
    named: BTreeSet<String>,
    /// The sums since the start: a sum for each named caller, and a sum under an empty name for all other callers.
    totals: Rows,
}

impl Meter {
    /// Creates a meter with time series for these callers, for this number of tenants.
    pub(crate) fn new(named: BTreeSet<String>, tenants: usize) -> Self {
        Self { named, tenants, ..Self::default() }
    }

    /// Adds a caller's published envelopes to the current hour and to the totals. Without room for a further row they
    /// are added to the row that has none. A caller that the policies name has room while the whole table has some: its
    /// bill does not depend on strangers. `now_s` is in unix seconds.
    pub(crate) fn record(
        &mut self,
        tenant: &str,
        caller: &str,
        kind: PayloadClass,
        usage: Usage,
        now_s: u64,
    ) {
        let hour = now_s / HOUR_S;
        let bytes_max = self.tenant_bytes_max(hour);
        let rows = self.hours.entry(hour).or_default().entry(tenant.into()).or_default();
        let key: RowKey = (Some(caller.into()), kind);
        let row_bytes = ROW_BYTES + caller.len();
        let has_room = match self.named.contains(caller) {
            true => self.bytes + row_bytes <= TABLE_BYTES_MAX,
            false => rows.bytes + row_bytes <= bytes_max,
        };
        let key = if rows.usages.contains_key(&key) {
            key
        } else if has_room {
            rows.bytes += row_bytes;
            self.bytes += row_bytes;
            key
        } else {
            (None, kind)
        };
        rows.usages.entry(key).or_default().add(usage);
        while self.hours.len() > HOURS_MAX {
            // Hours of a clock that was ahead go first. They would drive out each present one until they have come. The
            // next hour is none: the clock may have stepped back at its beginning.
            let is_ahead = self.hours.last_key_value().is_some_and(|(last, _)| *last > hour + 1);
            let gone = if is_ahead { self.hours.pop_last() } else { self.hours.pop_first() };
            self.bytes -= gone.map_or(0, |(_, rows)| bytes_of(&rows));
        }
        let shown = if self.named.contains(caller) { caller } else { "" };
        self.totals.entry((shown.into(), kind, tenant.into())).or_default().add(usage);
    }

    /// Returns the most memory for the rows of one tenant in an hour.
    fn tenant_bytes_max(&self, hour: u64) -> usize {
        let others = self.bytes - self.hours.get(&hour).map_or(0, bytes_of);
        TABLE_BYTES_MAX.saturating_sub(others) / HOUR_PART / self.tenants.max(1)
    }

    /// Iterates over the sums since the start.
    pub(crate) fn totals(&self) -> impl Iterator<Item = UsageTotal> {
        self.totals.iter().map(|((caller, kind, tenant), usage)| UsageTotal {
            caller: caller.to_string(),
            kind: kind.name(),
            tenant: tenant.to_string(),
            usage: *usage,
        })
    }

    /// Returns the rows after a place, or all rows without a place.
    fn rows_after<'a>(
        &'a self,
        after: Option<&'a RowPlace>,
    ) -> impl Iterator<Item = PlacedUsage<'a>> {
        let hours = self.hours.range(after.map_or(0, |place| place.hour)..);
        hours.flat_map(move |(hour, tenants)| {
            let begun = after.filter(|place| place.hour == *hour);
            let from = begun.map_or(Bound::Unbounded, |place| Bound::Included(&*place.tenant));
            let bounds: (Bound<&str>, Bound<&str>) = (from, Bound::Unbounded);
            tenants.range::<str, _>(bounds).flat_map(move |(tenant, rows)| {
                let begun = begun.filter(|place| place.tenant == *tenant);
                let from = begun.map_or(Bound::Unbounded, |place| Bound::Excluded(&place.key));
                let bounds: (Bound<&RowKey>, Bound<&RowKey>) = (from, Bound::Unbounded);
                let rows = rows.usages.range::<RowKey, _>(bounds);
                rows.map(move |(key, usage)| PlacedUsage { hour: *hour, tenant, key, usage })
            })
        })
    }

    /// Appends at most [`PIECE_ROWS_MAX`] rows after a place to the CSV text. Returns the place of the last one; `None`
    /// without further rows.
    fn append(&self, after: Option<&RowPlace>, text: &mut String) -> Option<RowPlace> {
        let mut last = None;
        for row in self.rows_after(after).take(PIECE_ROWS_MAX) {
            let PlacedUsage { hour, tenant, key: (caller, kind), usage } = row;
            let Usage { envelopes, bytes, picodollars: PicoDollarPrice(picodollars), gas } = usage;
            let (begin, caller, kind) = (hour_text(hour), quoted(caller.as_deref()), kind.name());
            let _ = write!(
                text,
                "{begin},{caller},{kind},{envelopes},{bytes},{picodollars},{gas},{tenant}\r\n"
            );
            last = Some(row);
        }
        last.map(|row| RowPlace { hour: row.hour, tenant: row.tenant.into(), key: row.key.clone() })
    }
}

/// Reads the usage table as CSV (RFC 4180), oldest hour first. A full table has more than 100 MB.
#[derive(Debug, Default)]
pub(crate) struct UsageTable {
    /// The names of the columns were read.
    begun: bool,
    /// The last row that was read.
    last: Option<RowPlace>,
}

impl UsageTable {
    /// Returns the next rows as they are now; `None` at the end. Locks the meter for [`PIECE_ROWS_MAX`] rows at a time,
    /// because every publish takes the same lock.
    pub(crate) fn next_piece(&mut self, meter: &Mutex<Meter>) -> Option<String> {
        let mut text = if self.begun { String::new() } else { COLUMNS.to_owned() };
        self.begun = true;
        let last = meter.lock().append(self.last.as_ref(), &mut text);
        self.last = last.or(self.last.take());
        (!text.is_empty()).then_some(text)
    }
}

/// Quotes a caller's name, or [`OTHERS`] without one, so that spreadsheets treat it as text. A caller chooses its name,
/// and could otherwise inject a formula, or have the text of another row.
fn quoted(caller: Option<&str>) -> String {
    let Some(name) = caller else { return format!("\"{OTHERS}\"") };
    let begins_formula = name.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'']);
    let is_marked = name == OTHERS || begins_formula;
    format!("\"{}{}\"", if is_marked { "'" } else { "" }, name.replace('"', "\"\""))
}

/// Returns the start of an hour, counted from 1970, in RFC 3339.
fn hour_text(hour: u64) -> String {
    format!("{}T{:02}:00:00Z", date_text((hour / 24).cast_signed()), hour % 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_S: u64 = 1_750_075_200; // 2025-06-16 12:00 UTC

    fn usage(envelopes: u64, bytes: u64) -> Usage {
        Usage { envelopes, bytes, picodollars: PicoDollarPrice(10 * envelopes), gas: 0 }
    }

    fn pieces(meter: &Mutex<Meter>) -> Vec<String> {
        let mut table = UsageTable::default();
        std::iter::from_fn(|| table.next_piece(meter)).collect()
    }

    fn csv(meter: &Mutex<Meter>) -> String {
        pieces(meter).concat()
    }

    #[test]
    fn a_long_table_comes_in_pieces_with_each_row_once() {
        let mut meter = Meter::new(BTreeSet::new(), 2);
        let mut expected = Vec::new();
        for hour in 0..3 {
            for tenant in ["blue", "red"] {
                for caller in 1000..1000 + PIECE_ROWS_MAX * 2 / 3 {
                    let (caller, now_s) = (caller.to_string(), NOON_S + hour * HOUR_S);
                    meter.record(tenant, &caller, PayloadClass::Commit, usage(1, 2), now_s);
                    meter.record(tenant, &caller, PayloadClass::Message, usage(1, 2), now_s);
                    let begin = format!("2025-06-16T{}:00:00Z,\"{caller}\"", 12 + hour);
                    expected.push(format!("{begin},message,1,2,10,0,{tenant}\r\n"));
                    expected.push(format!("{begin},commit,1,2,10,0,{tenant}\r\n"));
                }
            }
        }
        let pieces = pieces(&Mutex::new(meter));
        assert_eq!(pieces.len(), expected.len().div_ceil(PIECE_ROWS_MAX));
        assert!(pieces.iter().all(|it| it.lines().count() <= PIECE_ROWS_MAX + 1));
        assert!(pieces.concat() == format!("{COLUMNS}{}", expected.concat()), "in order, once");
        assert_eq!(csv(&Mutex::default()), COLUMNS);
    }

    #[test]
    fn hours_are_written_as_calendars_do() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_825_600, "2000-02-29T12:00:00Z"),
            (1_735_689_599, "2024-12-31T23:00:00Z"),
            (NOON_S, "2025-06-16T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(hour_text(seconds / HOUR_S), expected);
        }
    }

    #[test]
    fn callers_are_told_apart_by_hour_and_kind() {
        let mut meter = Meter::default();
        meter.record("", "bob", PayloadClass::Message, usage(2, 30), NOON_S);
        meter.record("", "bob", PayloadClass::Message, usage(1, 5), NOON_S + 3599);
        meter.record("", "bob", PayloadClass::Message, usage(1, 7), NOON_S + 3600);
        meter.record(
            "",
            "a \"b\", c",
            PayloadClass::Commit,
            Usage { gas: 9, ..usage(1, 8) },
            NOON_S,
        );
        meter.record("", "=2+3", PayloadClass::Welcome, usage(1, 1), NOON_S);
        let csv = csv(&Mutex::new(meter));
        let lines: Vec<_> = csv.split("\r\n").collect();
        assert_eq!(
            lines,
            [
                "hour,caller,kind,envelopes,bytes,picodollars,gas,tenant",
                "2025-06-16T12:00:00Z,\"'=2+3\",welcome,1,1,10,0,",
                "2025-06-16T12:00:00Z,\"a \"\"b\"\", c\",commit,1,8,10,9,",
                "2025-06-16T12:00:00Z,\"bob\",message,3,35,30,0,",
                "2025-06-16T13:00:00Z,\"bob\",message,1,7,10,0,",
                "",
            ]
        );
    }

    /// Spreadsheets take each of these beginnings for that of a formula, or skip it.
    #[test]
    fn no_name_begins_a_formula() {
        for begin in ["=", "+", "-", "@", "\t", "\r", "\n"] {
            let name = format!("{begin}1+2");
            assert_eq!(quoted(Some(&name)), format!("\"'{name}\""));
        }
        assert_eq!(quoted(Some("1+2")), "\"1+2\"");
    }

    /// Strangers who fill the rows of an hour, whatever it has.
    const STRANGERS: u64 = 300;

    /// Records an envelope of each stranger. Their names are far longer than any that a gateway takes, so that few rows
    /// fill the table.
    fn record_strangers(meter: &mut Meter, tenant: &str, now_s: u64) {
        let end = "x".repeat(64 * 1024);
        for stranger in 0..STRANGERS {
            let name = format!("{stranger} {end}");
            meter.record(tenant, &name, PayloadClass::Message, usage(1, 1), now_s);
        }
    }

    fn row(caller: &str) -> RowKey {
        (Some(caller.into()), PayloadClass::Message)
    }

    /// The row of callers beyond a tenant's share.
    const OF_OTHERS: RowKey = (None, PayloadClass::Message);

    #[test]
    fn no_name_is_written_like_that_of_another_row() {
        let mut meter = Meter::default();
        for name in [OTHERS, "=1", "'=1", "''=1"] {
            meter.record("", name, PayloadClass::Message, usage(1, 1), NOON_S);
        }
        record_strangers(&mut meter, "", NOON_S);
        let rows = &meter.hours[&(NOON_S / HOUR_S)][""].usages;
        assert_eq!(rows[&row(OTHERS)].envelopes, 1, "nothing of those beyond the share");
        assert!(rows[&OF_OTHERS].envelopes > 1);
        let csv = csv(&Mutex::new(meter));
        let names = csv.lines().map(|row| row.split(',').nth(1).unwrap());
        let short: Vec<_> = names.filter(|name| name.len() < 20).collect();
        let expected =
            ["caller", "\"(others)\"", "\"'''=1\"", "\"''=1\"", "\"'(others)\"", "\"'=1\""];
        assert_eq!(short, expected);
    }

    fn envelopes_of(rows: &TenantRows) -> u64 {
        rows.usages.values().map(|it| it.envelopes).sum()
    }

    #[test]
    fn callers_of_one_tenant_take_no_rows_of_another() {
        let mut meter = Meter::new(BTreeSet::new(), 2);
        record_strangers(&mut meter, "red", NOON_S);
        meter.record("blue", "bob", PayloadClass::Message, usage(1, 1), NOON_S);
        let tenants = meter.hours.values().next().unwrap();
        let (red, blue) = (&tenants["red"], &tenants["blue"]);
        let share = TABLE_BYTES_MAX / HOUR_PART / 2;
        assert!((share / 2..=share).contains(&red.bytes), "{}", red.bytes);
        assert_eq!(envelopes_of(red), STRANGERS, "those without a row are counted together");
        assert!(red.usages[&OF_OTHERS].envelopes > 1);
        assert_eq!((blue.usages.len(), blue.usages[&row("bob")].envelopes), (1, 1));
        let red_rows = red.usages.len();
        let csv = csv(&Mutex::new(meter));
        let rows = |part: &str| csv.lines().filter(|row| row.contains(part)).count();
        assert_eq!((rows(",red"), rows(",blue")), (red_rows, 1));
        assert_eq!((rows("\"(others)\",message,"), rows("\"bob\",message,1,1,10,0,blue")), (1, 1));
    }

    #[test]
    fn strangers_make_no_series_and_take_bounded_memory() {
        let mut meter = Meter::new(["bob".to_owned()].into(), 0);
        record_strangers(&mut meter, "", NOON_S);
        assert!(meter.hours[&(NOON_S / HOUR_S)][""].usages.contains_key(&OF_OTHERS));
        meter.record("", "bob", PayloadClass::Message, usage(1, 1), NOON_S);
        let hour = &meter.hours[&(NOON_S / HOUR_S)][""];
        assert_eq!(hour.usages[&row("bob")].envelopes, 1, "the policies name him");
        let totals: Vec<_> = meter.totals().collect();
        assert_eq!(totals.len(), 2);
        assert_eq!((&*totals[0].caller, totals[0].usage.envelopes), ("", STRANGERS));
        assert_eq!((&*totals[1].caller, totals[1].usage.envelopes), ("bob", 1));
        for hour in 0..200 {
            meter.record("", "bob", PayloadClass::Message, usage(1, 1), NOON_S + hour * HOUR_S);
        }
        assert_eq!(meter.hours.len(), HOURS_MAX);
        let bob = ROW_BYTES + "bob".len();
        assert_eq!(meter.bytes, HOURS_MAX * bob, "the rows of hours that are gone count no more");
    }

    /// The clock of the machine was a year ahead for a weekend, and was then set right.
    #[test]
    fn hours_of_a_clock_that_was_ahead_make_room_for_the_present_one() {
        let (mut meter, hours) = (Meter::default(), HOURS_MAX as u64);
        let ahead_s = NOON_S + 365 * 24 * HOUR_S;
        for hour in 0..hours {
            meter.record("", "bob", PayloadClass::Message, usage(1, 1), ahead_s + hour * HOUR_S);
        }
        for _ in 0..2 {
            meter.record("", "bob", PayloadClass::Message, usage(1, 1), NOON_S);
        }
        assert_eq!(meter.hours[&(NOON_S / HOUR_S)][""].usages[&row("bob")].envelopes, 2);
        assert_eq!(meter.hours.len(), HOURS_MAX);
        assert_eq!(meter.bytes, meter.hours.values().map(bytes_of).sum::<usize>());
    }

    /// The clock is put right by a moment at the beginning of an hour, after one in which nothing was published.
    #[test]
    fn a_record_of_the_hour_before_drives_out_none_of_the_present_one() {
        let (mut meter, hours) = (Meter::default(), HOURS_MAX as u64);
        let present = hours + 1;
        for hour in (0..hours).chain([present, present - 1]) {
            meter.record("", "bob", PayloadClass::Message, usage(1, 1), NOON_S + hour * HOUR_S);
        }
        let present = &meter.hours[&(NOON_S / HOUR_S + present)][""];
        assert_eq!(present.usages[&row("bob")].envelopes, 1);
        assert_eq!(meter.hours.len(), HOURS_MAX);
    }

    #[test]
    fn names_that_are_made_up_for_days_take_bounded_memory_and_leave_a_row_to_others() {
        let mut meter = Meter::default();
        for hour in (0..).take(HOURS_MAX) {
            let now_s = NOON_S + hour * HOUR_S;
            meter.record("", "bob", PayloadClass::Message, usage(1, 1), now_s);
            record_strangers(&mut meter, "", now_s);
            meter.record("", "bob", PayloadClass::Message, usage(1, 1), now_s);
            assert!(meter.bytes <= TABLE_BYTES_MAX, "hour {hour}");
        }
        assert!(meter.bytes > TABLE_BYTES_MAX / 2, "{}", meter.bytes);
        assert_eq!(meter.bytes, meter.hours.values().map(bytes_of).sum::<usize>());
        for (hour, tenants) in &meter.hours {
            let rows = &tenants[""];
            assert_eq!(rows.usages[&row("bob")].envelopes, 2, "hour {hour}");
            assert_eq!(envelopes_of(rows), STRANGERS + 2, "hour {hour}: no amount is lost");
        }
        let rows_of_first = meter.hours.values().next().unwrap()[""].usages.len();
        assert!(rows_of_first > 200, "later names took rows of earlier hours: {rows_of_first}");
    }
}
