//! `laneway node …`: the node service from the shell.

use clap::Subcommand;
use laneway_proto::v1;

use super::client::{block_on, node, refused};
use super::{CliResult, Output, output};

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Show cores, caches and NUMA nodes
    Topology,
    /// Show hugepage pools
    Pools,
    /// Show what the agent found to work on this node
    Capabilities,
}

pub(super) fn run(command: NodeCommand, socket: &str, form: Output) -> CliResult {
    block_on(async {
        let mut client = node(socket).await?;
        match command {
            NodeCommand::Topology => {
                let request = v1::GetTopologyRequest {};
                let answer = client.get_topology(request).await.map_err(refused)?;
                output::topology(&answer.into_inner(), form)
            }
            NodeCommand::Pools => {
                let request = v1::GetPoolsRequest {};
                let answer = client.get_pools(request).await.map_err(refused)?;
                output::pools(&answer.into_inner(), form)
            }
            NodeCommand::Capabilities => {
                let request = v1::GetCapabilitiesRequest {};
                let answer = client.get_capabilities(request).await.map_err(refused)?;
                output::capabilities(&answer.into_inner(), form)
            }
        }
    })
}
