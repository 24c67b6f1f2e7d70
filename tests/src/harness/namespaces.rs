//! A separate host for each node of a network: network namespaces around a router whose routes can be cut in each
//! direction.
//!
//! [`run`] starts a test anew as the first process of fresh namespaces for users, networks, mounts and processes. That
//! process is the router, and asks the nodes; [`Hosts`] gives each node a namespace at the end of a wire. When the
//! process ends, however it ends, the system ends all others in its namespaces and removes what was made in them.
//! Networks of the machine are neither changed nor reached. Root is not needed where users may make namespaces.
//! Tests with a file system of their own run there as well, because they may mount one.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

/// Environment variable that is set for a test inside of fresh namespaces.
const INSIDE_VARIABLE: &str = "HAWSER_TEST_INSIDE_NAMESPACES";
/// Environment variable that skips these tests, for systems on which namespaces cannot be made.
pub const LEAVE_OUT_VARIABLE: &str = "HAWSER_TEST_WITHOUT_NAMESPACES";

/// Runs the test body `story` in new namespaces. `test` is the name of the calling test, as the test runner knows it.
///
/// # Panics
/// Panics if `story` panics, and where namespaces cannot be made, unless the environment has [`LEAVE_OUT_VARIABLE`].
pub fn run(test: &str, story: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE_VARIABLE).is_some() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        ip("link set lo up");
        return runtime.block_on(story());
    }
    if std::env::var_os(LEAVE_OUT_VARIABLE).is_some() {
        println!("NOT TESTED: {test}, because {LEAVE_OUT_VARIABLE} is set");
        return;
    }
    assert_possible();
    let output = in_namespaces()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE_VARIABLE, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} fails in its namespaces: {}", output.status);
    assert!(stdout.contains("test result: ok. 1 passed;"), "no test is called {test}");
}

/// Returns the beginning of a command line that runs a program in fresh namespaces.
fn in_namespaces() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc"]);
    command.args(["--fork", "--kill-child", "--"]);
    command
}

/// Checks that namespaces can be made. A test that cannot run fails, unless it is skipped: `scripts/test` skips these
/// tests with a message where the system permits no namespaces.
fn assert_possible() {
    let tried = in_namespaces().args(["ip", "link", "set", "lo", "up"]).output();
    let failure = match tried {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!(
        "no namespaces can be made here: {failure}\nThis test needs unshare and nsenter (util-linux), ip (iproute2), and \
         a kernel that lets this user make namespaces. {LEAVE_OUT_VARIABLE}=1 leaves it out."
    );
}

/// One host for each node, on wires of their own to the router, which is this process.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Host>,
}

/// A network namespace at the end of a wire.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    number: u8,
}

impl Hosts {
    /// Makes hosts, each of which reaches all others.
    ///
    /// # Panics
    /// Panics if the system refuses to make namespaces.
    #[must_use]
    pub fn new(count: u8) -> Self {
        // A private mount for the names of namespaces, which other processes of the machine do not see.
        must(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
        std::fs::create_dir("/run/netns").unwrap();
        let hosts: Vec<Host> = (1..=count).map(|number| Host { number }).collect();
        for host in &hosts {
            let (name, wire) = (host.name(), host.wire());
            let (router, address) = (host.router(), host.address());
            ip(&format!("netns add {name}"));
            ip(&format!("link add {wire} type veth peer name eth0 netns {name}"));
            ip(&format!("address add {router}/30 dev {wire}"));
            ip(&format!("link set {wire} up"));
            ip(&format!("-n {name} address add {address}/30 dev eth0"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} route add default via {router}"));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        Self { hosts }
    }

    /// Returns the hosts in the order of their numbers.
    #[must_use]
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// Drops all packets from one host to another from now on, without an error to either. The other direction is not
    /// changed.
    ///
    /// # Panics
    /// Panics if the direction is cut already.
    pub fn cut(&self, from: usize, to: usize) {
        let was_open_back = self.passes(to, from);
        assert!(self.passes(from, to), "the way from {from} to {to} is cut already");
        ip(&format!("rule add {}", self.drops(from, to)));
        assert!(!self.passes(from, to), "no cut at all");
        assert_eq!(self.passes(to, from), was_open_back, "the way back has changed");
    }

    /// Cuts both directions.
    pub fn cut_both(&self, a: usize, b: usize) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// Forwards packets in this direction again.
    ///
    /// # Panics
    /// Panics if the direction is not cut.
    pub fn mend(&self, from: usize, to: usize) {
        ip(&format!("rule del {}", self.drops(from, to)));
        assert!(self.passes(from, to), "the way from {from} to {to} is still cut");
    }

    /// Mends both directions.
    pub fn mend_both(&self, a: usize, b: usize) {
        self.mend(a, b);
        self.mend(b, a);
    }

    fn drops(&self, from: usize, to: usize) -> String {
        format!("from {} to {} blackhole", self.hosts[from].address(), self.hosts[to].address())
    }

    /// Asks the router about a packet from one host to another.
    fn passes(&self, from: usize, to: usize) -> bool {
        let (from, to) = (self.hosts[from], self.hosts[to]);
        let (source, target, wire) = (from.address(), to.address(), from.wire());
        let question = format!("route get {target} from {source} iif {wire}");
        let output = Command::new("ip").args(question.split(' ')).output().unwrap();
        output.status.success()
    }
}

impl Host {
    /// Returns the address that other hosts reach it at.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    /// Returns the address of the router's end of the wire.
    fn router(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    fn name(self) -> String {
        format!("host{}", self.number)
    }

    fn wire(self) -> String {
        format!("wire{}", self.number)
    }

    /// Returns a command that runs `command` on this host, with the same changes of the environment.
    #[must_use]
    pub fn command(self, command: &Command) -> Command {
        let namespace = PathBuf::from("/run/netns").join(self.name());
        let mut there = Command::new("nsenter");
        there.arg(format!("--net={}", namespace.display())).arg("--");
        there.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => there.env(name, value),
                None => there.env_remove(name),
            };
        }
        there
    }
}

fn ip(arguments: &str) {
    must(Command::new("ip").args(arguments.split(' ')));
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
