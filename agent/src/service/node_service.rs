//! NodeService: the topology, the pools and what this node can do, from snapshots.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use laneway_proto::v1;
use laneway_proto::v1::node_service_server::NodeService;
use tonic::{Request, Response, Status};

use super::status::refusal;
use crate::doctor::Finding;
use crate::model::capacity::PageSize;
use crate::model::topology::Topology;
use crate::provision::pools::added_to;
use crate::registry::Registry;
use crate::sysfs::{self, SysfsError};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) registry: Arc<Registry>,
    /// As it was at the start.
    pub(super) topology: Arc<Topology>,
    pub(super) sys_root: PathBuf,
    pub(super) findings: Arc<Vec<Finding>>,
}

impl Node {
    /// The machine with its memory as it is now.
    fn topology(&self) -> Result<Topology, SysfsError> {
        let memory = sysfs::read_pools(&self.sys_root)?;
        let mut topology = (*self.topology).clone();
        topology.refresh(&memory);
        Ok(topology)
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    async fn get_topology(
        &self,
        _: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::GetTopologyResponse>, Status> {
        let snapshot = self.registry.snapshot();
        // Cores and caches do not change: whoever asks for them gets them.
        let (topology, memory_unread) = match self.topology() {
            Ok(topology) => (topology, String::new()),
            Err(error) => ((*self.topology).clone(), told(&error)),
        };
        let nodes = topology.nodes.iter().map(|node| v1::NumaNode {
            id: node.id,
            cpus: node.cpus.clone(),
            distances: node.distance.clone().into_iter().collect(),
            memory_total_bytes: node.memory_total_bytes,
        });
        let cpus = topology.cpus.iter().map(|cpu| v1::Cpu {
            id: cpu.id,
            package: cpu.package,
            core: cpu.core,
            node: cpu.node,
            l2: cpu.l2,
            l3: cpu.l3,
            isolated: cpu.isolated,
            nohz_full: cpu.nohz_full,
            holders: u32::try_from(snapshot.sums.cpu_holders(cpu.id)).unwrap_or(u32::MAX),
        });
        let (nodes, cpus) = (nodes.collect(), cpus.collect());
        Ok(Response::new(v1::GetTopologyResponse { nodes, cpus, memory_unread }))
    }

    async fn get_pools(
        &self,
        _: Request<v1::GetPoolsRequest>,
    ) -> Result<Response<v1::GetPoolsResponse>, Status> {
        let topology = self.topology().map_err(|error| {
            refusal("SEGMENT_REFUSED", format!("pools cannot be read: {}", told(&error)))
        })?;
        let snapshot = self.registry.snapshot();
        let mut pools = Vec::new();
        for node in &topology.nodes {
            for pool in &node.pools {
                let usage = snapshot.sums.pool_usage(node.id, pool.page_size);
                pools.push(v1::PagePool {
                    numa_node: node.id,
                    page_size_bytes: pool.page_size.bytes(),
                    total_pages: pool.total.get(),
                    free_pages: pool.available().get(),
                    lane_pages: usage.backed.get() + usage.promised.get(),
                    quarantined_pages: usage.quarantined.get(),
                    added_pages: added_to(&snapshot.added, node.id, pool.page_size),
                });
            }
            let small = snapshot.sums.pool_usage(node.id, PageSize::BASE_4K);
            pools.push(v1::PagePool {
                numa_node: node.id,
                page_size_bytes: PageSize::BASE_4K.bytes(),
                total_pages: node.memory_total_bytes / PageSize::BASE_4K.bytes(),
                free_pages: node.memory_free_bytes / PageSize::BASE_4K.bytes(),
                lane_pages: small.backed.get() + small.promised.get(),
                quarantined_pages: small.quarantined.get(),
                added_pages: 0,
            });
        }
        Ok(Response::new(v1::GetPoolsResponse { pools }))
    }

    async fn get_capabilities(
        &self,
        _: Request<v1::GetCapabilitiesRequest>,
    ) -> Result<Response<v1::GetCapabilitiesResponse>, Status> {
        let capabilities = self.findings.iter().map(|finding| v1::Capability {
            name: finding.name.to_owned(),
            available: finding.works,
            detail: finding.detail(),
        });
        let format_major = laneway_shm::layout::VERSION >> 32;
        Ok(Response::new(v1::GetCapabilitiesResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format_major: u32::try_from(format_major).unwrap_or(0),
            capabilities: capabilities.collect(),
        }))
    }
}

/// What could not be read, and what the kernel said.
fn told(error: &SysfsError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::topology::{Cpu, NumaNode};

    /// The service of a machine with one cpu and a page of memory at the agent's start.
    fn node(sys_root: &std::path::Path) -> Node {
        let nodes =
            vec![NumaNode { cpus: vec![0], memory_total_bytes: 4096, ..Default::default() }];
        let cpu = Cpu {
            id: 0,
            package: 0,
            core: 0,
            node: 0,
            l2: None,
            l3: None,
            siblings: Vec::new(),
            isolated: false,
            nohz_full: false,
        };
        Node {
            registry: Arc::default(),
            topology: Arc::new(Topology { nodes, cpus: vec![cpu], ..Topology::default() }),
            sys_root: sys_root.to_path_buf(),
            findings: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_machine_that_cannot_be_read_any_more_has_the_cores_of_the_start_and_no_free_pages() {
        let root = tempfile::tempdir().unwrap();
        let node = node(root.path());
        let asked = || Request::new(v1::GetTopologyRequest {});
        let unread = node.get_topology(asked()).await.unwrap().into_inner();
        assert_eq!((unread.cpus.len(), unread.nodes[0].memory_total_bytes), (1, 4096));
        assert!(unread.memory_unread.contains("cannot read"), "{unread:?}");
        let refused = node.get_pools(Request::new(v1::GetPoolsRequest {})).await.unwrap_err();
        assert!(refused.message().contains("pools cannot be read"), "{refused}");

        fs::create_dir(root.path().join("proc")).unwrap();
        let meminfo = "MemTotal: 8 kB\nMemFree: 4 kB\n";
        fs::write(root.path().join("proc/meminfo"), meminfo).unwrap();
        let read = node.get_topology(asked()).await.unwrap().into_inner();
        assert_eq!((read.nodes[0].memory_total_bytes, read.memory_unread.as_str()), (8192, ""));
        node.get_pools(Request::new(v1::GetPoolsRequest {})).await.unwrap();
    }
}
