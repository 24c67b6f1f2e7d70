//! Nodes with what is around them, as one program: other nodes, gateways, proxies, replicas, witnesses, chains, disks,
//! and auditors. Also what these tests rely on: power loss and wrong clocks as the harness plays them.

mod disk;
mod evidence_process;
mod gateway_to_nodes;
mod ledger_on_chain;
mod log_lines;
mod partition;
mod proxies;
mod recorded_exchange;
mod registered_addresses;
mod replica;
mod scrub;
mod snapshot;
mod spied_processes;
mod witnesses;
