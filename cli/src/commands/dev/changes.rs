//! A network that runs: its events, and nodes that are added, removed, killed and started again by commands.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use hawser_chain::addresses::Addresses;
use hawser_chain::admin::ChainRole;
use hawser_chain::send::Sender;
use hawser_devchain::{deploy, devnet};
use hawser_node::error::RunError;
use hawser_node::service::stop_signal::{StopReason, StopSignals};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::child::{CommandLine, ProcessEvent, ProcessName};
use super::control::{Control, DevOrder, DevRequest};
use super::folder::{self, Folder};
use super::network::{Network, status_text, until_ready};
use super::ports::{self, DevPorts};
use super::report;
use crate::commands::chain;
use crate::commands::onchain::reach;

/// Longest wait until a node can publish. A guess: a start takes a second, the others read the registry each minute if
/// no announcement reaches them, and a node that most others do not reach never can.
const READY_MAX: Duration = Duration::from_secs(120);

impl Network {
    /// Reports events and carries out orders until a signal or an order stops the network. Returns the connection of
    /// that order, whose end says that the network has ended. A process that ends is not started again, because the
    /// user may have killed it on purpose.
    pub(super) async fn watch_over(
        &mut self,
        folder: &Folder,
        control: &mut Control,
        ends: &mut StopSignals,
    ) -> Option<DevOrder> {
        loop {
            tokio::select! {
                StopReason::Signal(_) | StopReason::Parent = ends.next() => return None,
                Some(event) = self.events.recv() => self.note(event),
                order = control.next() => {
                    if order.request == DevRequest::Down {
                        return Some(order);
                    }
                    tokio::select! {
                        done = self.carry_out(folder, order.request) => order.answer(done),
                        _ = ends.next() => return None,
                    }
                }
            }
        }
    }

    /// Carries out a request.
    async fn carry_out(&mut self, folder: &Folder, request: DevRequest) -> Result<Value, RunError> {
        match request {
            DevRequest::AddNode => self.add_node(folder).await,
            DevRequest::RemoveNode(node_id) => self.remove_node(folder, node_id).await,
            DevRequest::Kill(node_id) => self.kill_node(node_id).await,
            DevRequest::Start(node_id) => self.start_again(folder, node_id).await,
            DevRequest::Down => Ok(Value::Null), // the caller stops the network
        }
    }

    /// Registers one more node, and starts it.
    async fn add_node(&mut self, folder: &Folder) -> Result<Value, RunError> {
        let known = folder.known_nodes()?;
        // The registry gives ids in this order, also after nodes that were removed.
        let last = known.last().map_or(0, |node| node.node_id.0);
        let ports = DevPorts::of_node(last + 100, self.shared.base())?;
        ports::require_free(&[ports], None).await?;
        let all: Vec<_> = self.ports.iter().copied().chain([ports]).collect();
        folder.prepare(&all)?;
        if let Err(error) = self.register(folder).await {
            // Later changes and the next start would register the node again, and fail as well. If the registry has
            // got it nevertheless, the next attempt has the same key, which stays in the folder.
            folder.write_registry(known)?;
            return Err(error);
        }
        self.start_node(folder, ports, "added").await
    }

    /// Removes a node from the canonical network, and stops its process.
    async fn remove_node(&mut self, folder: &Folder, node_id: u32) -> Result<Value, RunError> {
        self.ports_of(node_id)?;
        if self.ports.len() == 1 {
            return Err(RunError::refused(format!(
                "node {node_id} is the only one: `hawser dev down` stops the network"
            )));
        }
        folder.set_canonical(node_id, false)?;
        self.register(folder).await?;
        let who = ProcessName::Node(node_id);
        if self.running.contains(&who) {
            self.child(who).stop();
            let status = self.until_ended(who).await;
            report::stopped(self.reporter, who, &status_text(&status));
        }
        self.ports.retain(|ports| ports.node_id != node_id);
        self.announce(folder)?;
        Ok(json!({ "event": "removed", "node_id": node_id }))
    }

    /// Kills the process of a node.
    async fn kill_node(&mut self, node_id: u32) -> Result<Value, RunError> {
        self.ports_of(node_id)?;
        let who = ProcessName::Node(node_id);
        if !self.running.contains(&who) {
            return Err(RunError::refused(format!("{who} does not run")));
        }
        self.child(who).kill();
        let status = self.until_ended(who).await;
        let left = self.running_nodes();
        report::lost(self.reporter, self.child(who), &status_text(&status), left);
        Ok(json!({ "event": "killed", "node_id": node_id, "running": left }))
    }

    /// Starts the process of a node that has ended.
    async fn start_again(&mut self, folder: &Folder, node_id: u32) -> Result<Value, RunError> {
        let ports = self.ports_of(node_id)?;
        if self.running.contains(&ProcessName::Node(node_id)) {
            return Err(RunError::refused(format!("node {node_id} runs already")));
        }
        ports::require_free(&[ports], None).await?;
        self.start_node(folder, ports, "started").await
    }

    /// Starts the process of a node, writes the description of the network, and waits until the node can publish.
    async fn start_node(
        &mut self,
        folder: &Folder,
        ports: DevPorts,
        event: &str,
    ) -> Result<Value, RunError> {
        let (who, node) = (ProcessName::Node(ports.node_id), folder.node(ports.node_id));
        let (program, shared, source) = (&self.program, self.shared, &self.source);
        let command = CommandLine::of_node(program, folder, ports, shared, source);
        self.add(who, command, &node.log_file).await?;
        // Only now: the description of the network has the process of each of its nodes.
        if !self.ports.contains(&ports) {
            self.ports.push(ports);
        }
        let described = self.announce(folder)?;
        match timeout(READY_MAX, self.until_node_ready(ports)).await {
            Ok(ready) => ready?,
            Err(_) => {
                return Err(not_ready(who, &folder.network()));
            }
        }
        folder.note_started(ports.node_id)?;
        report::node_up(self.reporter, event, who, self.child(who).pid);
        let node = described.nodes.iter().find(|node| node.node_id == ports.node_id);
        Ok(json!({ "event": event, "node": node }))
    }

    /// Returns the ports of a node of the network, also of one whose process has ended.
    fn ports_of(&self, node_id: u32) -> Result<DevPorts, RunError> {
        let ports = self.ports.iter().find(|ports| ports.node_id == node_id);
        ports.copied().ok_or_else(|| folder::unknown(node_id))
    }

    /// Makes the registry on the settlement chain as the folder's registry is. Nodes that read that file notice its
    /// change by themselves.
    async fn register(&self, folder: &Folder) -> Result<(), RunError> {
        let nodes = chain::dev::nodes_of(&folder.registry(), None)?;
        let url = format!("http://{}", self.shared.settlement());
        let settlement = reach(&[url], devnet::SETTLEMENT_ID, ChainRole::Settlement).await?;
        let contracts = Addresses::read(&folder.chain_json()).map_err(RunError::failed)?;
        let admin = Sender::new(settlement, deploy::deployer());
        let done = deploy::register_nodes(&admin, contracts.node_registry, &nodes).await;
        done.map_err(RunError::failed)
    }

    /// Waits until a node can publish, and fails if it ends before.
    async fn until_node_ready(&mut self, ports: DevPorts) -> Result<(), RunError> {
        let who = ProcessName::Node(ports.node_id);
        let ready = until_ready(who, ports.metrics(), "?for=publish", self.reporter);
        tokio::pin!(ready);
        loop {
            tokio::select! {
                () = &mut ready => return Ok(()),
                Some(event) = self.events.recv() => match event {
                    ProcessEvent::Ended { who: ended, status } if ended == who => {
                        self.running.retain(|running| *running != who);
                        return Err(self.not_started(who, &status));
                    }
                    other => self.note(other),
                },
            }
        }
    }

    /// Waits until a process has ended that was told to.
    async fn until_ended(&mut self, who: ProcessName) -> std::io::Result<ExitStatus> {
        loop {
            match self.events.recv().await {
                Some(ProcessEvent::Ended { who: ended, status }) if ended == who => {
                    self.running.retain(|running| *running != who);
                    return status;
                }
                Some(other) => self.note(other),
                // Never so: this value holds a sender.
                None => return Err(std::io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

/// Returns the error for a node that runs and does not publish. The network of another folder than the default one is
/// found by its file alone.
fn not_ready(who: ProcessName, network: &Path) -> RunError {
    let (network, waited_s) = (network.display(), READY_MAX.as_secs());
    RunError::failed(format!(
        "{who} runs and cannot publish after {waited_s} s: `hawser status --network {network}` says why"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_for_a_node_that_is_not_ready_names_its_network() {
        let error = not_ready(ProcessName::Node(300), Path::new("/net/network.json"));
        assert!(error.text.contains("hawser status --network /net/network.json"), "{error}");
    }
}
