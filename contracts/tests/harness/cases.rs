//! Each behaviour is a function of a world, and is checked on every kind of chain.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use tokio::runtime::Runtime;

use super::chain::Kind;
use super::world::World;

/// One behaviour.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) body: for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// Makes a test on each kind of chain of each of these functions, and lists them in `CASES`.
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
                    let kind = $crate::harness::chain::Kind::Embedded;
                    $crate::harness::cases::check(kind, super::CASES, stringify!($name));
                }
            )*
        }

        mod anvil {
            $(
                #[test]
                fn $name() {
                    let kind = $crate::harness::chain::Kind::Anvil;
                    $crate::harness::cases::check(kind, super::CASES, stringify!($name));
                }
            )*
        }
    };
}
pub(crate) use on_both_chains;

/// Everything asynchronous happens here, so that connections outlive the test that made them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads start"));

/// Nothing, or what a test has failed with.
type Outcome = Result<(), String>;

/// Cases by kind of chain and name. Whoever comes first runs one.
type Outcomes = HashMap<(Kind, &'static str), Arc<OnceLock<Outcome>>>;

/// What has run already: the check of what was exercised runs what has not.
static OUTCOMES: LazyLock<Mutex<Outcomes>> = LazyLock::new(Mutex::default);

/// Worlds without a test. Each test takes one, and leaves it as it was.
static IDLE: LazyLock<Mutex<HashMap<Kind, Vec<World>>>> = LazyLock::new(Mutex::default);

/// Runs the case of this name.
pub(crate) fn check(kind: Kind, cases: &[Case], name: &str) {
    let is_it = |case: &&Case| case.name.rsplit("::").next() == Some(name);
    let case = cases.iter().find(is_it).expect("tests and cases come from one list");
    if let Err(message) = outcome(kind, *case) {
        panic!("{message}");
    }
}

/// Runs a case, unless it has run, and says what has come of it.
pub(crate) fn outcome(kind: Kind, case: Case) -> Outcome {
    let cell = Arc::clone(OUTCOMES.lock().unwrap().entry((kind, case.name)).or_default());
    cell.get_or_init(|| run(kind, case)).clone()
}

fn run(kind: Kind, case: Case) -> Outcome {
    let idle = IDLE.lock().unwrap().entry(kind).or_default().pop();
    let result = catch_unwind(AssertUnwindSafe(|| {
        RUNTIME.block_on(async {
            let world = match idle {
                Some(world) => world,
                None => World::start(kind).await,
            };
            (case.body)(&world).await;
            world.restore().await
        })
    }));
    let world = result.map_err(|panic| format!("{}: {}", case.name, message(&*panic)))?;
    IDLE.lock().unwrap().entry(kind).or_default().push(world);
    Ok(())
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it has panicked".to_owned())
}
