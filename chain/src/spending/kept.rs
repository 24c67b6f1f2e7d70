//! The cost of the last hour, kept over restarts: of an account that one process at a time uses.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::{CeilingError, Spending, SpendingLimits, SpentFile, present_minute};
use crate::admin::{Wei, WeiPerGas};

/// Error of the file that keeps the cost of the last hour.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}, which keeps what the last hour has cost, so nothing is sent: {source}")]
pub struct SpentFileError {
    /// The file.
    path: PathBuf,
    /// The failure.
    source: io::Error,
}

/// The cost of the last hour, in memory and in a file.
#[derive(Debug)]
pub(crate) struct KeptSpending {
    limits: SpendingLimits,
    /// The file; `None`: the cost is kept in memory alone.
    path: Option<PathBuf>,
    /// The open file. The first cost opens it, and continues with the costs in it.
    file: Option<SpentFile>,
    hour: Spending,
    /// The time with which those of `hour` begin.
    since: Instant,
}

impl KeptSpending {
    pub(crate) fn new(limits: SpendingLimits, path: Option<PathBuf>) -> Self {
        Self { limits, path, file: None, hour: Spending::new(limits), since: Instant::now() }
    }

    /// Adds the cost of a transaction at this price to the last hour, as long as the hour costs no more than
    /// `hour_max`. The file has the cost when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// Fails if the file cannot be read or written. Otherwise returns the ceiling that the transaction would exceed.
    /// No cost is added in either case.
    pub(crate) fn take_up_to(
        &mut self,
        hour_max: Wei,
        price: WeiPerGas,
        cost: Wei,
    ) -> Result<Result<(), CeilingError>, SpentFileError> {
        let Some(path) = &self.path else {
            return Ok(self.hour.take_up_to(hour_max, price, cost, self.since.elapsed()));
        };
        let failed = |source| SpentFileError { path: path.clone(), source };
        if self.file.is_none() {
            let present = present_minute();
            let (file, earlier) = SpentFile::open(path, present).map_err(failed)?;
            self.hour = Spending::resume(self.limits, present, &earlier);
            (self.file, self.since) = (Some(file), Instant::now());
        }
        let now = self.since.elapsed();
        let taken = self.hour.take_up_to(hour_max, price, cost, now);
        if taken.is_ok()
            && let Some(file) = &self.file
            && let Err(source) = file.write(self.hour.minute(now))
        {
            self.hour.give_back(cost, now);
            return Err(failed(source));
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    const LIMITS: SpendingLimits =
        SpendingLimits { gas_price_max: WeiPerGas(10), per_hour_max: Wei(1000) };
    const PRICE: WeiPerGas = WeiPerGas(1);

    fn spent(wei: u128) -> CeilingError {
        CeilingError::Hour { spent: Wei(wei), max: Wei(1000) }
    }

    /// A service manager starts the node again after each transaction.
    #[test]
    fn the_hour_goes_on_after_a_restart_and_only_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/costs");
        let take = |path, cost| {
            let mut spending = KeptSpending::new(LIMITS, path);
            spending.take_up_to(Wei(900), PRICE, Wei(cost)).unwrap()
        };
        for (cost, taken) in [(500, Ok(())), (300, Ok(())), (200, Err(800)), (100, Ok(()))] {
            let taken = taken.map_err(|wei| CeilingError::Hour { spent: Wei(wei), max: Wei(900) });
            assert_eq!(take(Some(path.clone()), cost), taken);
            assert_eq!(take(None, cost), Ok(()));
        }
    }

    #[test]
    fn without_its_file_nothing_is_counted_until_it_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("costs");
        fs::create_dir(&path).unwrap();
        let mut spending = KeptSpending::new(LIMITS, Some(path.clone()));
        let take = |spending: &mut KeptSpending, cost| {
            spending.take_up_to(Wei(u128::MAX), PRICE, Wei(cost))
        };
        let error = take(&mut spending, 700).unwrap_err();
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        fs::remove_dir(&path).unwrap();
        assert_eq!(take(&mut spending, 700).unwrap(), Ok(()));

        spending.file = Some(SpentFile::of(File::open(&path).unwrap())); // for reading only
        assert!(take(&mut spending, 200).is_err());
        spending.file = None;
        assert_eq!(take(&mut spending, 400).unwrap(), Err(spent(700)));
        assert_eq!(take(&mut spending, 300).unwrap(), Ok(()));
    }
}
