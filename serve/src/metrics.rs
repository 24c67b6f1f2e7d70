//! Counters, gauges and histograms as plain atomics, and how they are written out. The gateway
//! counts with them as well.

use std::fmt::Error;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Moves up, or down.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Where it stands.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Durations in buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds_s: &'static [f64],
    /// One more than there are bounds, for what is above all of them.
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Upper bounds and observations, not cumulated; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// All observations together.
    pub sum: f64,
}

impl Buckets {
    /// From counts for each of `bounds` and one more.
    #[must_use]
    pub fn new(bounds: &[f64], counts: impl IntoIterator<Item = u64>, sum: f64) -> Self {
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        Self { buckets: bounds.zip(counts).collect(), sum }
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

impl Histogram {
    /// `bounds_s` are upper bounds in seconds, ascending.
    #[must_use]
    pub fn new(bounds_s: &'static [f64]) -> Self {
        let buckets = (0..=bounds_s.len()).map(|_| AtomicU64::default()).collect();
        Self { bounds_s, buckets, sum_ns: AtomicU64::default() }
    }

    /// Takes one duration in.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds_s.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// As it is now.
    #[must_use]
    pub fn get(&self) -> Buckets {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let sum = Duration::from_nanos(self.sum_ns.load(Relaxed)).as_secs_f64();
        Buckets::new(self.bounds_s, counts, sum)
    }
}

/// Writes families of metrics, one after the other.
pub struct Exposition<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Exposition<'a> {
    /// Writes there.
    #[must_use]
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// A family of counters; its samples are called `<name>_total`.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, samples, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// A family of gauges.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, samples, |encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// A family of histograms.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn histograms<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, Buckets)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Histogram, samples, |encoder, value| {
            let count = value.count();
            encoder.encode_histogram::<NoLabelSet>(value.sum, count, &value.buckets, None)
        })
    }

    /// A counter that is alone in its family.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A gauge that is alone in its family, if there is a value.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeGaugeValue>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| family.encode_gauge(&value))
    }

    /// A histogram that is alone in its family.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn histogram(&mut self, name: &str, help: &str, value: &Buckets) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(value.sum, value.count(), &value.buckets, None)
    }

    fn family<L: EncodeLabelSet, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            write(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}
