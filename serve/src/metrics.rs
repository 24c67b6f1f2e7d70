//! Exposition of metrics in the OpenMetrics text format.
//!
//! The counters are those of `prometheus-client`: [`Counter`], [`Gauge`], [`Histogram`]. The library cannot write
//! families whose label sets are known only at the scrape (peers, chains, nodes), so [`Exposition`] wraps its encoder
//! for collectors.

use std::fmt::{Error, Result};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet,
    text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// The metrics page of a process: the families of its collectors, in their order.
#[derive(Debug)]
pub struct MetricsPage {
    registry: Registry,
}

impl MetricsPage {
    /// Collects from `collectors` at every scrape.
    #[must_use]
    pub fn new(collectors: impl IntoIterator<Item = Box<dyn Collector>>) -> Self {
        let mut registry = Registry::default();
        collectors.into_iter().for_each(|collector| registry.register_collector(collector));
        Self { registry }
    }

    /// Renders the page in the OpenMetrics text format. Blocks if a collector does.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a string cannot fail");
        page
    }
}

/// Writes families of metrics, one after the other.
pub struct Exposition<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Exposition<'a> {
    /// Writes to `encoder`.
    #[must_use]
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// Writes a family of counters; its samples are called `<name>_total`.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> Result {
        self.family(name, help, MetricType::Counter, samples, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// Writes a family of counters whose samples have the family's own name, without `_total`. The reference
    /// implementation has such counters, and dashboards name them. OpenMetrics allows no such counter, so the type is
    /// left open there, as in the reference implementation.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn plain_counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> Result {
        self.family(name, help, MetricType::Unknown, samples, |mut encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// Writes a family of gauges.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> Result {
        self.family(name, help, MetricType::Gauge, samples, |mut encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// Writes a family of histograms.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> Result {
        self.family(name, help, MetricType::Histogram, samples, |encoder, value| {
            value.encode(encoder)
        })
    }

    /// Writes a family that is one counter without labels.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// Writes a family that is one counter of a fraction, without labels. For `None` the family has no sample.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub(crate) fn fraction_counter(
        &mut self,
        name: &str,
        help: &str,
        value: Option<f64>,
    ) -> Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        value.map_or(Ok(()), |value| family.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    /// Writes a family of one gauge without labels. For `None` the family has no sample.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeGaugeValue>,
    ) -> Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| family.encode_gauge(&value))
    }

    /// Writes a family that is one histogram without labels.
    ///
    /// # Errors
    /// The errors of the encoder.
    pub fn histogram(&mut self, name: &str, help: &str, value: &Histogram) -> Result {
        value.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?)
    }

    fn family<L: EncodeLabelSet, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(MetricEncoder<'_>, V) -> std::result::Result<(), Error>,
    ) -> Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            write(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct One(Histogram);

    impl Collector for One {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result {
            Exposition::new(encoder).histograms("took", "Seconds", [([("stage", "all")], &self.0)])
        }
    }

    proptest! {
        /// Dashboards rely on this: a value equal to a bound counts in the bucket of that bound, and buckets are
        /// cumulative.
        #[test]
        fn buckets_are_cumulative_and_include_their_bound(
            values in proptest::collection::vec(0u32..6, 0..40),
        ) {
            let bounds = [1.0, 2.0, 4.0];
            let histogram = Histogram::new(bounds);
            values.iter().for_each(|value| histogram.observe(f64::from(*value)));
            let page = MetricsPage::new([Box::new(One(histogram)) as Box<dyn Collector>]).render();
            for (bound, shown) in bounds.into_iter().zip(["1.0", "2.0", "4.0"]) {
                let within = values.iter().filter(|value| f64::from(**value) <= bound).count();
                let line = format!("took_bucket{{le=\"{shown}\",stage=\"all\"}} {within}\n");
                prop_assert!(page.contains(&line), "{}\n{}", line, page);
            }
            let all = format!("took_bucket{{le=\"+Inf\",stage=\"all\"}} {}\n", values.len());
            prop_assert!(page.contains(&all), "{}\n{}", all, page);
            let count = format!("took_count{{stage=\"all\"}} {}\n", values.len());
            prop_assert!(page.contains(&count), "{}\n{}", count, page);
        }
    }
}
