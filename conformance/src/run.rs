//! Runs a selection of the cases.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use hawser_proto::{OriginatorId, SecretKey};

use crate::case::{Case, Need};
use crate::case_error::{CaseError, CaseErrorKind};
use crate::cases;
use crate::connection::Connection;
use crate::context::{JudgedNodes, RestartCommands, STREAM_TOPICS_MAX};
use crate::http::TargetAddress;
use crate::report::{CaseResult, Outcome, SuiteReport};

/// Cases that run at once. A guess: most of them wait for answers, and the suite should not load the node.
const TOGETHER: usize = 6;

/// Arguments of a run.
#[derive(Debug, Clone)]
pub struct SuitePlan {
    /// Address of the node that is judged.
    pub target: String,
    /// Address of another node of its network.
    pub second: Option<String>,
    /// Address of a gateway of its network.
    pub gateway: Option<String>,
    /// The key that pays.
    pub payer: Option<SecretKey>,
    /// The target's id. A payer signs for no other node, so it has to be there with a key.
    pub node_id: Option<OriginatorId>,
    /// Names of areas and cases to run. Empty runs every case.
    pub only: Vec<String>,
    /// Permission to attack.
    pub destructive: bool,
    /// Permission to send and store large amounts of data.
    pub load: bool,
    /// The commands that restart the target.
    pub restart: Option<RestartCommands>,
    /// The longest wait for one answer.
    pub answer_timeout: Duration,
    /// An upper bound of every case's time limit.
    pub limit: Option<Duration>,
    /// Number of topics in the case of a stream with the most topics. A small number lets a test run the same code in
    /// seconds.
    pub stream_topics: u32,
    /// Further certificate authorities that are trusted, as PEM.
    pub authorities: Option<Bytes>,
}

/// The reason no case was run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteStartError {
    /// An argument cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No node answers at an address.
    #[error("{0}")]
    Unreachable(String),
}

impl SuitePlan {
    /// Returns a plan of every case that needs no argument but the target.
    #[must_use]
    pub fn new(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            second: None,
            gateway: None,
            payer: None,
            node_id: None,
            only: Vec::new(),
            destructive: false,
            load: false,
            restart: None,
            answer_timeout: Duration::from_secs(10),
            limit: None,
            stream_topics: STREAM_TOPICS_MAX,
            authorities: None,
        }
    }

    /// Returns the cases that `only` selects.
    ///
    /// # Errors
    /// Returns an error if a name in `only` is neither an area nor a case.
    pub fn selected(&self) -> Result<Vec<Case>, SuiteStartError> {
        let is_named = |case: &Case, name: &String| case.id == name || case.area.name() == name;
        for name in &self.only {
            if !cases::all().any(|case| is_named(&case, name)) {
                return Err(SuiteStartError::Usage(format!(
                    "{name:?} is neither an area nor a case: `hawser conformance --list` names all"
                )));
            }
        }
        let is_selected =
            |case: &Case| self.only.is_empty() || self.only.iter().any(|name| is_named(case, name));
        Ok(cases::all().filter(is_selected).collect())
    }

    async fn connect(&self, address: &str) -> Result<Connection, SuiteStartError> {
        let wrong = || {
            SuiteStartError::Usage(format!(
                "{address:?} is not an address: write HOST:PORT, http://… or https://…"
            ))
        };
        let mut parsed = TargetAddress::parse(address).ok_or_else(wrong)?;
        parsed.authorities.clone_from(&self.authorities);
        let connection = Connection::new(parsed, self.answer_timeout).map_err(|_| wrong())?;
        let reached = connection.address.connect(self.answer_timeout).await;
        reached.map_err(|failure| SuiteStartError::Unreachable(failure.to_string()))?;
        Ok(connection)
    }

    async fn context(&self) -> Result<JudgedNodes, SuiteStartError> {
        let target = self.connect(&self.target).await?;
        let second = match &self.second {
            Some(address) => Some(self.connect(address).await?),
            None => None,
        };
        let gateway = match &self.gateway {
            Some(address) => Some(self.connect(address).await?),
            None => None,
        };
        let node = match (self.node_id, &self.payer) {
            (Some(id), _) => Ok(id),
            // The target is not asked for its id: a lying node could name another one, which could then charge the
            // payer for the envelopes that it signs.
            (None, Some(_)) => {
                let text = "the payer signs for one node, and no network.json names the target's address: give the \
                    target's id with --node-id";
                return Err(SuiteStartError::Usage(text.to_owned()));
            }
            (None, None) => Err(CaseError::skip("needs --payer-key-file")),
        };
        Ok(JudgedNodes {
            target,
            second,
            gateway,
            payer: self.payer.clone(),
            restart: self.restart.clone(),
            node,
            stream_topics: self.stream_topics,
        })
    }

    fn lacks(&self, case: &Case) -> Option<Need> {
        case.needs.iter().copied().find(|need| match need {
            Need::Payer => self.payer.is_none(),
            Need::Second => self.second.is_none(),
            Need::Gateway => self.gateway.is_none(),
            Need::Destructive => !self.destructive,
            Need::Load => !self.load,
            Need::Restart => self.restart.is_none(),
        })
    }
}

/// Runs the selected cases and passes on each result as it arrives, in the order of the cases. Cases that disturb
/// others run alone, after all others.
///
/// # Errors
/// Returns an error if an argument cannot be used, or a node that the plan names cannot be reached.
pub async fn run(
    plan: &SuitePlan,
    mut on_result: impl FnMut(&CaseResult),
) -> Result<SuiteReport, SuiteStartError> {
    let cases = plan.selected()?;
    let context = plan.context().await?;
    let started = Instant::now();
    let (alone, together): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(Case::is_alone);
    let mut results = Vec::new();
    let judged = |case| judge(plan, &context, case);
    let mut running =
        futures_util::stream::iter(together.into_iter().map(judged)).buffered(TOGETHER);
    while let Some(result) = running.next().await {
        on_result(&result);
        results.push(result);
    }
    for case in alone {
        let result = judge(plan, &context, case).await;
        on_result(&result);
        results.push(result);
    }
    Ok(SuiteReport { target: context.target.address.url(), results, took: started.elapsed() })
}

/// Runs one case. A panic and a timeout fail this case only.
async fn judge(plan: &SuitePlan, context: &JudgedNodes, case: Case) -> CaseResult {
    let started = Instant::now();
    let outcome = match plan.lacks(&case) {
        Some(need) => Outcome::Skipped(format!("needs {}", need.argument())),
        None => checked(context, &case, plan.limit).await,
    };
    CaseResult { case, outcome, took: started.elapsed() }
}

async fn checked(context: &JudgedNodes, case: &Case, limit: Option<Duration>) -> Outcome {
    let limit = limit.map_or(case.limit, |limit| limit.min(case.limit));
    let check = AssertUnwindSafe((case.check)(context)).catch_unwind();
    let failure = match tokio::time::timeout(limit, check).await {
        Ok(Ok(Ok(()))) => return Outcome::Passed,
        Ok(Ok(Err(failure))) => failure,
        Ok(Err(_)) => CaseError::new("an answer that the suite can judge", "a panic of the suite"),
        Err(_) => CaseError::new("an end", format!("none within {} ms", limit.as_millis())),
    };
    match failure.kind {
        CaseErrorKind::Broken => Outcome::Failed(failure),
        CaseErrorKind::Known(software) => Outcome::Finding(software, failure),
        CaseErrorKind::Skipped => Outcome::Skipped(failure.got),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Area;

    fn context() -> JudgedNodes {
        let address = TargetAddress::parse("127.0.0.1:9").unwrap();
        JudgedNodes {
            target: Connection::new(address, Duration::from_secs(1)).unwrap(),
            second: None,
            gateway: None,
            payer: None,
            restart: None,
            node: Err(CaseError::skip("none")),
            stream_topics: STREAM_TOPICS_MAX,
        }
    }

    async fn outcome(case: Case) -> Outcome {
        judge(&SuitePlan::new("x:1"), &context(), case).await.outcome
    }

    #[tokio::test]
    async fn a_case_that_hangs_or_panics_ends_alone() {
        let case = |check| Case::new(Area::Errors, "x", "x", "x", check);
        let hangs = case(|_| Box::pin(std::future::pending())).limit(Duration::from_millis(20));
        let Outcome::Failed(failure) = outcome(hangs).await else { panic!("it hangs") };
        assert!(failure.got.starts_with("none within"), "{failure}");
        let panics = case(|_| Box::pin(async { panic!("on purpose") }));
        assert!(matches!(outcome(panics).await, Outcome::Failed(_)));
        let known = case(|_| Box::pin(async { Err(CaseError::known("x", "a", "b")) }));
        assert!(matches!(outcome(known).await, Outcome::Finding("x", _)));
        let skipped = Case { needs: &[Need::Load], ..known };
        assert_eq!(outcome(skipped).await, Outcome::Skipped("needs --load".into()));
        let plan = SuitePlan { limit: Some(Duration::from_millis(20)), ..SuitePlan::new("x:1") };
        let hangs_for_long = case(|_| Box::pin(std::future::pending()));
        let ended = judge(&plan, &context(), hangs_for_long).await.outcome;
        assert!(matches!(ended, Outcome::Failed(_)), "before its own limit");
        let passes = case(|_| Box::pin(async { Ok(()) }));
        assert_eq!(outcome(passes).await, Outcome::Passed);
    }

    #[tokio::test]
    async fn arguments_that_cannot_be_used_are_told_before_anything_runs() {
        let usage = async |plan: SuitePlan| match run(&plan, |_| ()).await {
            Err(SuiteStartError::Usage(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(usage(SuitePlan::new("nonsense")).await.contains("is not an address"));
        let plan = SuitePlan { only: vec!["nonsense".into()], ..SuitePlan::new("127.0.0.1:9") };
        assert!(usage(plan).await.contains("neither an area nor a case"));
        let unreachable = run(&SuitePlan::new("127.0.0.1:9"), |_| ()).await;
        assert!(matches!(unreachable, Err(SuiteStartError::Unreachable(_))));
    }
}
