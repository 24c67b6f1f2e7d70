//! A case is a function of a test network, and runs on every kind of chain.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::chain::ChainBackend;
use super::network::TestNetwork;

/// One tested behaviour.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) body: for<'a> fn(&'a TestNetwork) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// Makes each of these functions a test on each kind of chain, and lists them in `CASES`.
macro_rules! on_both_chains {
    ($($name:ident)*) => {
        pub(crate) const CASES: &[$crate::harness::cases::Case] = &[$(
            $crate::harness::cases::Case {
                name: concat!(module_path!(), "::", stringify!($name)),
                body: |world| Box::pin($name(world)),
            },
        )*];

        mod embedded {
            $(
                #[test]
                fn $name() {
                    let kind = $crate::harness::chain::ChainBackend::Embedded;
                    $crate::harness::cases::check(kind, super::CASES, stringify!($name));
                }
            )*
        }

        mod anvil {
            $(
                #[test]
                fn $name() {
                    let kind = $crate::harness::chain::ChainBackend::Anvil;
                    $crate::harness::cases::check(kind, super::CASES, stringify!($name));
                }
            )*
        }
    };
}
pub(crate) use on_both_chains;

/// The runtime of all tests. It outlives each of them, so that connections stay open.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads start"));

/// The result of a case: success, or the message of its failure.
type CaseResult = Result<(), String>;

/// Results by kind of chain and name of the case. The first thread that asks for a result runs the case.
type CaseResults = HashMap<(ChainBackend, &'static str), Arc<OnceLock<CaseResult>>>;

/// The results so far. The coverage check runs the cases that have none.
static OUTCOMES: LazyLock<Mutex<CaseResults>> = LazyLock::new(Mutex::default);

/// Idle networks. Each test takes one and restores it afterwards.
static IDLE: LazyLock<Mutex<HashMap<ChainBackend, Vec<TestNetwork>>>> =
    LazyLock::new(Mutex::default);

/// Runs the case of this name.
pub(crate) fn check(kind: ChainBackend, cases: &[Case], name: &str) {
    let is_it = |case: &&Case| case.name.rsplit("::").next() == Some(name);
    let case = cases.iter().find(is_it).expect("tests and cases come from one list");
    if let Err(message) = outcome(kind, *case) {
        panic!("{message}");
    }
}

/// Runs a case unless it has run, and returns its result.
pub(crate) fn outcome(kind: ChainBackend, case: Case) -> CaseResult {
    let cell = Arc::clone(OUTCOMES.lock().entry((kind, case.name)).or_default());
    cell.get_or_init(|| run(kind, case)).clone()
}

fn run(kind: ChainBackend, case: Case) -> CaseResult {
    let idle = IDLE.lock().entry(kind).or_default().pop();
    let result = catch_unwind(AssertUnwindSafe(|| {
        RUNTIME.block_on(async {
            let world = match idle {
                Some(world) => world,
                None => TestNetwork::start(kind).await,
            };
            (case.body)(&world).await;
            world.restore().await
        })
    }));
    let world = result.map_err(|panic| format!("{}: {}", case.name, message(&*panic)))?;
    IDLE.lock().entry(kind).or_default().push(world);
    Ok(())
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it has panicked".to_owned())
}
