//! `laneway lane …`: the lane service from the shell.

use std::error::Error;

use clap::{Args, Subcommand, ValueEnum};
use laneway_proto::v1;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use tonic::transport::Channel;

use super::client::{block_on, lanes, refused};
use super::{CliResult, Output, output};

#[derive(Debug, Subcommand)]
pub(super) enum LaneCommand {
    /// Make a lane and print a ticket for each end
    Create(Box<CreateArgs>),
    /// Show one lane
    Get {
        /// Name or id
        lane: String,
    },
    /// Show all lanes
    List {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show every change until interrupted
    Watch {
        /// Resume after this revision
        #[arg(long, default_value_t = 0)]
        start_revision: u64,
    },
    /// End a lane
    Delete {
        /// Name or id
        lane: String,
    },
    /// Print a new one-time ticket for an end
    Ticket {
        /// Name or id
        lane: String,
        /// The end
        role: RoleArg,
        /// Lifetime in milliseconds
        #[arg(long, default_value_t = 60_000)]
        ttl_ms: u32,
    },
}

/// Make a lane and print a ticket for each end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  laneway lane create orders --slot-size 56 --slots 1024
  laneway lane create frames --slot-size 65528 --slots 64 --page-size 2MiB --require-page-size
  laneway lane create ticks --exclusive --wait spin --relation same-l3
  laneway lane create quotes --shape broadcast --policy evicting --readers 8
  laneway lane create logs --wait park --pinning none --producer-uid 1001 --consumer-uid 1002")]
pub(super) struct CreateArgs {
    /// Name, unique on the node: a-z, 0-9 and '-'
    name: String,
    /// Payload of one slot in bytes; 56 makes a slot of one cache line
    #[arg(long, default_value_t = 56)]
    slot_size: u32,
    /// Slots, a power of two; default what suits the profile, the caches and the cores
    #[arg(long)]
    slots: Option<u32>,
    /// Pages: 4KiB, 2MiB or 1GiB; default the best that can be had
    #[arg(long, value_parser = page_size)]
    page_size: Option<u64>,
    /// Refuse rather than step down to smaller pages
    #[arg(long, requires = "page_size")]
    require_page_size: bool,
    /// How the ends wait for each other
    #[arg(long, value_enum, default_value = "spin")]
    wait: WaitArg,
    /// What the lane is tuned for: the next message at once, or many in a second
    #[arg(long, value_enum, default_value = "latency")]
    profile: ProfileArg,
    /// One consumer, or one producer and many readers
    #[arg(long, value_enum, default_value = "spsc")]
    shape: ShapeArg,
    /// What a broadcast lane's producer does about slow readers; default gated
    #[arg(long, value_enum)]
    policy: Option<PolicyArg>,
    /// Slots that a reader may be behind before an evicting lane gives it up; default half the ring
    #[arg(long, value_name = "SLOTS")]
    lag_budget: Option<u32>,
    /// Readers at a time; default 64
    #[arg(long, value_name = "COUNT")]
    readers: Option<u32>,
    /// Who pays; default the first tenant of the configuration
    #[arg(long)]
    tenant: Option<String>,
    /// Who pins the ends' threads
    #[arg(long, value_enum, default_value = "self")]
    pinning: PinningArg,
    /// Nobody else's lane on these physical cores
    #[arg(long)]
    exclusive: bool,
    /// The producer's cpu
    #[arg(long, value_name = "CPU")]
    producer_cpu: Option<u32>,
    /// The consumer's cpu
    #[arg(long, value_name = "CPU")]
    consumer_cpu: Option<u32>,
    /// Cpus the producer may get, such as 0-3,8
    #[arg(long, value_name = "LIST", default_value = "")]
    producer_cpus: String,
    /// Cpus the consumer may get, such as 0-3,8
    #[arg(long, value_name = "LIST", default_value = "")]
    consumer_cpus: String,
    /// Refuse cores below this grade
    #[arg(long, value_enum)]
    min_grade: Option<GradeArg>,
    /// NUMA node of the memory
    #[arg(long)]
    node: Option<u32>,
    /// How near the two cores must be
    #[arg(long, value_enum, default_value = "any")]
    relation: RelationArg,
    /// User that may attach the producer by name; may be repeated
    #[arg(long, value_name = "UID")]
    producer_uid: Vec<u32>,
    /// User that may attach the consumer by name; may be repeated
    #[arg(long, value_name = "UID")]
    consumer_uid: Vec<u32>,
    /// Group that may attach the producer by name; may be repeated
    #[arg(long, value_name = "GID")]
    producer_gid: Vec<u32>,
    /// Group that may attach the consumer by name; may be repeated
    #[arg(long, value_name = "GID")]
    consumer_gid: Vec<u32>,
    /// What the messages are, as 16 hexadecimal digits: an end with another schema is refused
    #[arg(long, value_name = "HEX", default_value = "0", value_parser = schema)]
    schema: u64,
    /// Say what would happen, change nothing
    #[arg(long)]
    validate_only: bool,
    /// Repeating the command with the same id repeats the answer
    #[arg(long, default_value = "")]
    request_id: String,
}

/// An end of a lane.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    Producer,
    Consumer,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WaitArg {
    Spin,
    Park,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum ShapeArg {
    Spsc,
    Broadcast,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArg {
    /// Wait for the slowest reader
    Gated,
    /// Give up readers that are too far behind
    Evicting,
    /// Wait for nobody
    Overwrite,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileArg {
    Latency,
    Throughput,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PinningArg {
    /// Nobody
    None,
    #[value(name = "self")]
    /// The library, inside its own cpuset
    Own,
    /// The agent
    Enforce,
    /// The agent, which keeps everything else off the core
    Cpuset,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GradeArg {
    A,
    B,
    C,
    D,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RelationArg {
    Any,
    SameNode,
    SameL3,
}

/// A page size as people write it.
fn page_size(text: &str) -> Result<u64, String> {
    match text {
        "4KiB" => Ok(4096),
        "2MiB" => Ok(2 << 20),
        "1GiB" => Ok(1 << 30),
        _ => Err("expected 4KiB, 2MiB or 1GiB".to_owned()),
    }
}

/// A schema as messages and `lane get` show it.
fn schema(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| "expected at most 16 hexadecimal digits".to_owned())
}

pub(super) fn run(command: LaneCommand, socket: &str, form: Output) -> CliResult {
    block_on(async {
        let mut client = lanes(socket).await?;
        match command {
            LaneCommand::Create(args) => create(&mut client, *args, form).await,
            LaneCommand::Get { lane } => {
                let request = v1::GetLaneRequest { lane };
                let answer = client.get_lane(request).await.map_err(refused)?.into_inner();
                output::lane(&answer.lane.unwrap_or_default(), form)
            }
            LaneCommand::List { tenant } => list(&mut client, tenant, form).await,
            LaneCommand::Watch { start_revision } => watch(&mut client, start_revision, form).await,
            LaneCommand::Delete { lane } => {
                let request = v1::DeleteLaneRequest { lane, ..v1::DeleteLaneRequest::default() };
                let answer = client.delete_lane(request).await.map_err(refused)?.into_inner();
                output::deleted(&answer.lane.unwrap_or_default(), form)
            }
            LaneCommand::Ticket { lane, role, ttl_ms } => {
                let ticket = ticket(&mut client, &lane, role, ttl_ms).await?;
                output::ticket(&ticket, form)
            }
        }
    })
}

async fn create(
    client: &mut LaneServiceClient<Channel>,
    args: CreateArgs,
    form: Output,
) -> CliResult {
    let validate_only = args.validate_only;
    let request = v1::CreateLaneRequest {
        request_id: args.request_id.clone(),
        validate_only,
        spec: Some(spec(args)),
    };
    let answer = client.create_lane(request).await.map_err(refused)?.into_inner();
    let lane = answer.lane.unwrap_or_default();
    if validate_only {
        return output::lane(&lane, form);
    }
    let producer = ticket(client, &lane.id, RoleArg::Producer, 600_000).await?;
    let consumer = ticket(client, &lane.id, RoleArg::Consumer, 600_000).await?;
    output::created(&lane, &producer, &consumer, form)
}

/// What the flags of a broadcast lane say; the agent refuses them for another shape.
fn broadcast(args: &CreateArgs) -> Option<v1::BroadcastSpec> {
    let asked = args.policy.is_some() || args.lag_budget.is_some() || args.readers.is_some();
    let policy = match args.policy {
        None => v1::BroadcastPolicy::Unspecified,
        Some(PolicyArg::Gated) => v1::BroadcastPolicy::Gated,
        Some(PolicyArg::Evicting) => v1::BroadcastPolicy::Evicting,
        Some(PolicyArg::Overwrite) => v1::BroadcastPolicy::Overwrite,
    };
    (asked || args.shape == ShapeArg::Broadcast).then(|| v1::BroadcastSpec {
        policy: policy.into(),
        lag_budget_slots: args.lag_budget.unwrap_or(0),
        readers_max: args.readers.unwrap_or(0),
    })
}

fn spec(args: CreateArgs) -> v1::LaneSpec {
    let broadcast = broadcast(&args);
    let shape = match args.shape {
        ShapeArg::Spsc => v1::Shape::Spsc,
        ShapeArg::Broadcast => v1::Shape::Broadcast,
    };
    let pinning = pinning(args.pinning);
    let grade = match args.min_grade {
        None => v1::Grade::Unspecified,
        Some(GradeArg::A) => v1::Grade::A,
        Some(GradeArg::B) => v1::Grade::B,
        Some(GradeArg::C) => v1::Grade::C,
        Some(GradeArg::D) => v1::Grade::D,
    };
    let end = |cpu, allowed_cpus, uids, gids| v1::EndSpec {
        pinning: pinning.into(),
        exclusive: args.exclusive,
        cpu,
        allowed_cpus,
        min_grade: grade.into(),
        uids,
        gids,
    };
    let wait = match args.wait {
        WaitArg::Spin => v1::WaitMode::Spin,
        WaitArg::Park => v1::WaitMode::Park,
    };
    let profile = match args.profile {
        ProfileArg::Latency => v1::Profile::Latency,
        ProfileArg::Throughput => v1::Profile::Throughput,
    };
    let mut consumer =
        end(args.consumer_cpu, args.consumer_cpus, args.consumer_uid, args.consumer_gid);
    let many = broadcast.as_ref().is_some_and(|broadcast| broadcast.readers_max != 1);
    if many && !matches!(args.pinning, PinningArg::Enforce | PinningArg::Cpuset) {
        // Readers get no cores: what the flags ask of both ends is asked of the producer.
        (consumer.pinning, consumer.exclusive) = (v1::Pinning::None.into(), false);
        consumer.min_grade = v1::Grade::Unspecified.into();
    }
    v1::LaneSpec {
        name: args.name,
        tenant: args.tenant.unwrap_or_default(),
        geometry: Some(v1::Geometry {
            slot_payload_bytes: args.slot_size,
            slot_count: args.slots.unwrap_or(0),
        }),
        pages: Some(v1::PageRequest {
            page_size_bytes: args.page_size.unwrap_or(0),
            require: args.require_page_size,
        }),
        wait: wait.into(),
        profile: profile.into(),
        producer: Some(end(
            args.producer_cpu,
            args.producer_cpus,
            args.producer_uid,
            args.producer_gid,
        )),
        consumer: Some(consumer),
        numa_node: args.node,
        relation: relation(args.relation).into(),
        schema_id: args.schema,
        shape: shape.into(),
        broadcast,
    }
}

fn pinning(pinning: PinningArg) -> v1::Pinning {
    match pinning {
        PinningArg::None => v1::Pinning::None,
        PinningArg::Own => v1::Pinning::Self_,
        PinningArg::Enforce => v1::Pinning::Enforce,
        PinningArg::Cpuset => v1::Pinning::Cpuset,
    }
}

fn relation(relation: RelationArg) -> v1::CacheRelation {
    match relation {
        RelationArg::Any => v1::CacheRelation::Any,
        RelationArg::SameNode => v1::CacheRelation::SameNode,
        RelationArg::SameL3 => v1::CacheRelation::SameL3,
    }
}

async fn ticket(
    client: &mut LaneServiceClient<Channel>,
    lane: &str,
    role: RoleArg,
    ttl_ms: u32,
) -> Result<v1::IssueTicketResponse, Box<dyn Error>> {
    let role = match role {
        RoleArg::Producer => v1::Role::Producer,
        RoleArg::Consumer => v1::Role::Consumer,
    };
    let request = v1::IssueTicketRequest {
        request_id: String::new(),
        lane: lane.to_owned(),
        role: role.into(),
        ttl_ms,
    };
    Ok(client.issue_ticket(request).await.map_err(refused)?.into_inner())
}

async fn list(
    client: &mut LaneServiceClient<Channel>,
    tenant: Option<String>,
    form: Output,
) -> CliResult {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let tenant = tenant.clone().unwrap_or_default();
        let request = v1::ListLanesRequest { page_size: 1000, page_token, tenant };
        let page = client.list_lanes(request).await.map_err(refused)?.into_inner();
        all.extend(page.lanes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return output::lanes(&all, form);
        }
    }
}

async fn watch(
    client: &mut LaneServiceClient<Channel>,
    start_revision: u64,
    form: Output,
) -> CliResult {
    let request = v1::WatchLanesRequest { start_revision };
    let mut stream = client.watch_lanes(request).await.map_err(refused)?.into_inner();
    while let Some(change) = stream.message().await.map_err(refused)? {
        output::change(&change, form)?;
    }
    Ok(())
}
