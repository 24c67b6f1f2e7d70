//! Nodes as processes, clients, envelopes, faults. In reading order:
//!
//! - [`binary`], [`process`], [`ports`], [`files`]: the binary, and one running process of it;
//! - [`network`]: nodes with keys, folders and ports, started and stopped one by one;
//! - [`gateway`]: a gateway before them; [`faulty`]: a node whose answers are wrong on purpose;
//! - [`client`], [`envelopes`], [`identities`], [`vectors`], [`recorded_session`]: the clients, and what they send;
//! - [`load`], [`burst`], [`strand`], [`projections`], [`node_content`]: publishing without pause, and what must come
//!   of it;
//! - [`reader`]: subscriptions that are checked while they run;
//! - [`scripted_peer`]: a node of other software, with its habits as switches; [`recorded_peer`]: what a real one has
//!   sent;
//! - [`web_server`]: the files of a folder over HTTP;
//! - [`xmtpd_database`]: a database of the reference implementation, in a Postgres of its own;
//! - [`balancer`], [`udp`], [`power`], [`disk`], [`clock`], [`raw`]: balancers, cut cables, power loss, disks that
//!   fail, wrong clocks, broken requests;
//! - [`namespaces`]: hosts of their own for nodes, and ways between them that are cut in one direction;
//! - [`outage`]: nodes that are killed or lose power under load, and lose nothing;
//! - [`memory`], [`open_files`]: the memory of a process, watched, and its files, limited.

pub mod balancer;
pub mod binary;
pub mod burst;
pub mod client;
pub mod clock;
pub mod disk;
pub mod envelopes;
pub mod faulty;
pub mod files;
mod frame_body;
pub mod gateway;
pub mod identities;
pub mod load;
pub mod memory;
pub mod namespaces;
pub mod network;
pub mod node_content;
pub mod open_files;
pub mod outage;
pub mod ports;
pub mod power;
pub mod process;
pub mod projections;
pub mod raw;
pub mod reader;
pub mod recorded_peer;
pub mod recorded_session;
pub mod scripted_peer;
pub mod seed;
pub mod strand;
pub mod udp;
pub mod vectors;
pub mod wait;
pub mod web_server;
pub mod xmtpd_database;
