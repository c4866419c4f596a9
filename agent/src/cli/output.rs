//! Answers as tables for people and as JSON for programs.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use laneway_proto::v1;
use laneway_proto::v1::end_status::State;
use laneway_proto::v1::reader_status::GivenUp;
use laneway_proto::v1::watch_lanes_response::Kind;
use serde_json::{Value, json};

use super::{CliResult, Output};
use crate::doctor::Finding;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

fn print_json(value: &Value) -> CliResult {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A size as people write it, exact.
pub(crate) fn size(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

fn end_json(end: &v1::EndStatus) -> Value {
    let counters = end.counters.unwrap_or_default();
    json!({
        "state": name_of(end.state().as_str_name(), "STATE_"),
        "cpu": end.cpu,
        "grade": name_of(end.grade().as_str_name(), "GRADE_"),
        "facts": end.facts,
        "pinning": name_of(end.pinning().as_str_name(), "PINNING_"),
        "drifts": end.drifts,
        "uid": end.uid,
        "pid": end.pid,
        "incarnation": end.incarnation,
        "counters": {
            "position": counters.position, "messages": counters.messages,
            "bytes": counters.bytes, "waits": counters.waits,
        },
    })
}

fn reader_json(reader: &v1::ReaderStatus) -> Value {
    let counters = reader.counters.unwrap_or_default();
    json!({
        "number": reader.number,
        "state": name_of(reader.state().as_str_name(), "STATE_"),
        "joined": reader.joined,
        "lag_slots": reader.lag_slots,
        "gates_since": reader.gates_since.map(|time| time.to_string()),
        "given_up": given_up(reader),
        "lost_slots": reader.lost_slots,
        "uid": reader.uid,
        "pid": reader.pid,
        "counters": {
            "position": counters.position, "messages": counters.messages,
            "bytes": counters.bytes, "waits": counters.waits,
        },
    })
}

/// Why the producer gave a reader up, if it did.
fn given_up(reader: &v1::ReaderStatus) -> Option<String> {
    match reader.given_up() {
        GivenUp::Unspecified => None,
        reason => Some(name_of(reason.as_str_name(), "GIVEN_UP_")),
    }
}

fn broadcast_json(spec: &v1::BroadcastSpec) -> Value {
    json!({
        "policy": name_of(spec.policy().as_str_name(), "BROADCAST_POLICY_"),
        "lag_budget_slots": spec.lag_budget_slots,
        "readers_max": spec.readers_max,
    })
}

fn name_of(text: &str, prefix: &str) -> String {
    text.strip_prefix(prefix).unwrap_or(text).to_lowercase()
}

/// A lane as JSON.
pub(crate) fn lane_json(lane: &v1::Lane) -> Value {
    let spec = lane.spec.clone().unwrap_or_default();
    let geometry = spec.geometry.unwrap_or_default();
    let placed = lane.placement.clone().unwrap_or_default();
    let down = placed
        .steps_down
        .iter()
        .map(|step| json!({ "page_size_bytes": step.page_size_bytes, "reason": step.reason }));
    json!({
        "id": lane.id,
        "name": spec.name,
        "tenant": spec.tenant,
        "slot_payload_bytes": geometry.slot_payload_bytes,
        "slot_count": geometry.slot_count,
        "wait": name_of(spec.wait().as_str_name(), "WAIT_MODE_"),
        "shape": name_of(spec.shape().as_str_name(), "SHAPE_"),
        "broadcast": spec.broadcast.as_ref().map(broadcast_json),
        "profile": name_of(spec.profile().as_str_name(), "PROFILE_"),
        "schema": format!("{:016x}", lane.schema_id),
        "generation": lane.generation,
        "open_generations": lane.open_generations,
        "lag_slots": lane.lag_slots,
        "revision": lane.revision,
        "create_time": lane.create_time.map(|time| time.to_string()),
        "placement": {
            "numa_node": placed.numa_node,
            "actual_numa_node": placed.actual_numa_node,
            "bound": placed.bound,
            "page_size_bytes": placed.page_size_bytes,
            "page_count": placed.page_count,
            "segment_bytes": placed.segment_bytes,
            "steps_down": down.collect::<Vec<_>>(),
            "relation": placed.relation,
            "score": placed.score,
            "proof": placed.proof,
            "depth_reason": placed.depth_reason,
        },
        "producer": lane.producer.as_ref().map(end_json),
        "consumer": lane.consumer.as_ref().map(end_json),
        "readers": lane.readers.iter().map(reader_json).collect::<Vec<_>>(),
    })
}

fn end_cell(end: Option<&v1::EndStatus>) -> String {
    let Some(end) = end else { return String::new() };
    let state = match end.state() {
        State::Live => "live",
        State::Gone => "gone",
        State::Unconfirmed => "unconfirmed",
        State::Absent | State::Unspecified => "-",
    };
    let cpu = end.cpu.map_or_else(|| "no core".to_owned(), |cpu| format!("cpu {cpu}"));
    format!("{state}, {cpu}, grade {}", name_of(end.grade().as_str_name(), "GRADE_").to_uppercase())
}

pub(super) fn lanes(lanes: &[v1::Lane], form: Output) -> CliResult {
    if form == Output::Json {
        let list: Vec<Value> = lanes.iter().map(lane_json).collect();
        return print_json(&json!({ "lanes": list }));
    }
    let header = ["NAME", "TENANT", "SLOTS", "PAGES", "NODE", "PRODUCER", "CONSUMER", "GEN", "LAG"];
    let mut table = table(&header);
    for lane in lanes {
        let spec = lane.spec.clone().unwrap_or_default();
        let geometry = spec.geometry.unwrap_or_default();
        let placed = lane.placement.clone().unwrap_or_default();
        table.add_row([
            spec.name,
            spec.tenant,
            format!("{} x {} B", geometry.slot_count, geometry.slot_payload_bytes),
            format!("{} x {}", placed.page_count, size(placed.page_size_bytes)),
            placed.numa_node.to_string(),
            end_cell(lane.producer.as_ref()),
            end_cell(lane.consumer.as_ref()),
            lane.generation.to_string(),
            lane.lag_slots.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

pub(super) fn lane(lane: &v1::Lane, form: Output) -> CliResult {
    if form == Output::Json {
        return print_json(&lane_json(lane));
    }
    lanes(std::slice::from_ref(lane), form)?;
    let placed = lane.placement.clone().unwrap_or_default();
    println!("id        {}", lane.id);
    let bound = if placed.bound { "bound" } else { "not bound" };
    let relation = if placed.relation.is_empty() { "none".into() } else { placed.relation };
    println!("memory    {} on node {} ({bound})", size(placed.segment_bytes), placed.numa_node);
    println!("cores     {relation}");
    if !placed.depth_reason.is_empty() {
        println!("depth     {}", placed.depth_reason);
    }
    for step in &placed.steps_down {
        let tried = size(step.page_size_bytes);
        let reason = step.reason.strip_prefix(&format!("{tried}: ")).unwrap_or(&step.reason);
        println!("step down {tried}: {reason}");
    }
    for (name, end) in [("producer", &lane.producer), ("consumer", &lane.consumer)] {
        if let Some(counters) = end.as_ref().and_then(|end| end.counters) {
            println!("{name}  {} messages, {} bytes", counters.messages, counters.bytes);
        }
    }
    for reader in &lane.readers {
        println!("{}", reader_line(reader));
    }
    Ok(())
}

/// One reader of a broadcast lane, with what is remarkable about it.
fn reader_line(reader: &v1::ReaderStatus) -> String {
    let state = name_of(reader.state().as_str_name(), "STATE_");
    let mut line = format!("reader {:<3}{state}, {} slots behind", reader.number, reader.lag_slots);
    if let Some(since) = reader.gates_since {
        line.push_str(&format!(", holds the producer since {since}"));
    }
    if let Some(reason) = given_up(reader) {
        line.push_str(&format!(", given up ({reason})"));
    }
    if reader.lost_slots > 0 {
        line.push_str(&format!(", lost {} slots", reader.lost_slots));
    }
    line
}

pub(super) fn created(
    created: &v1::Lane,
    producer: &v1::IssueTicketResponse,
    consumer: &v1::IssueTicketResponse,
    form: Output,
) -> CliResult {
    if form == Output::Json {
        return print_json(&json!({
            "lane": lane_json(created),
            "tickets": { "producer": producer.ticket, "consumer": consumer.ticket },
            "attach_socket": producer.attach_socket,
        }));
    }
    lane(created, form)?;
    println!("producer  ticket {}", producer.ticket);
    println!("consumer  ticket {}", consumer.ticket);
    println!("attach    {}", producer.attach_socket);
    Ok(())
}

pub(super) fn deleted(lane: &v1::Lane, form: Output) -> CliResult {
    if form == Output::Json {
        return print_json(&lane_json(lane));
    }
    let name = lane.spec.as_ref().map(|spec| spec.name.as_str()).unwrap_or_default();
    println!("lane {name} ({}) is deleted", lane.id);
    Ok(())
}

pub(super) fn ticket(ticket: &v1::IssueTicketResponse, form: Output) -> CliResult {
    if form == Output::Json {
        return print_json(&json!({
            "ticket": ticket.ticket,
            "attach_socket": ticket.attach_socket,
            "expire_time": ticket.expire_time.map(|time| time.to_string()),
        }));
    }
    println!("{}", ticket.ticket);
    Ok(())
}

/// One line for each change, so that a pipe can follow.
pub(super) fn change(change: &v1::WatchLanesResponse, form: Output) -> CliResult {
    let kind = name_of(change.kind().as_str_name(), "KIND_");
    if form == Output::Json {
        let lane = change.lane.as_ref().map(lane_json);
        println!("{}", json!({ "kind": kind, "revision": change.revision, "lane": lane }));
        return Ok(());
    }
    if change.kind() == Kind::Bookmark {
        println!("{:>14} -- up to date --", change.revision);
        return Ok(());
    }
    let lane = change.lane.clone().unwrap_or_default();
    let name = lane.spec.map(|spec| spec.name).unwrap_or_default();
    let producer = end_cell(lane.producer.as_ref());
    let consumer = end_cell(lane.consumer.as_ref());
    println!("{:>14} {kind:<8} {name}: producer {producer}; consumer {consumer}", change.revision);
    Ok(())
}

pub(super) fn topology(answer: &v1::GetTopologyResponse, form: Output) -> CliResult {
    if form == Output::Json {
        let nodes = answer.nodes.iter().map(|node| {
            json!({
                "id": node.id, "cpus": node.cpus, "distances": node.distances,
                "memory_total_bytes": node.memory_total_bytes,
            })
        });
        let cpus = answer.cpus.iter().map(|cpu| {
            json!({
                "id": cpu.id, "package": cpu.package, "core": cpu.core, "node": cpu.node,
                "l2": cpu.l2, "l3": cpu.l3, "isolated": cpu.isolated,
                "nohz_full": cpu.nohz_full, "holders": cpu.holders,
            })
        });
        let (nodes, cpus): (Vec<Value>, Vec<Value>) = (nodes.collect(), cpus.collect());
        let unread = &answer.memory_unread;
        return print_json(&json!({ "nodes": nodes, "cpus": cpus, "memory_unread": unread }));
    }
    let mut shown =
        table(&["CPU", "NODE", "PACKAGE", "CORE", "L2", "L3", "ISOLATED", "NOHZ", "LANE ENDS"]);
    let or_dash = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    for cpu in &answer.cpus {
        shown.add_row([
            cpu.id.to_string(),
            cpu.node.to_string(),
            cpu.package.to_string(),
            cpu.core.to_string(),
            or_dash(cpu.l2),
            or_dash(cpu.l3),
            cpu.isolated.to_string(),
            cpu.nohz_full.to_string(),
            cpu.holders.to_string(),
        ]);
    }
    println!("{shown}");
    if !answer.memory_unread.is_empty() {
        println!("memory as it was at the agent's start: {}", answer.memory_unread);
    }
    Ok(())
}

pub(super) fn pools(answer: &v1::GetPoolsResponse, form: Output) -> CliResult {
    if form == Output::Json {
        let pools = answer.pools.iter().map(|pool| {
            json!({
                "numa_node": pool.numa_node, "page_size_bytes": pool.page_size_bytes,
                "total_pages": pool.total_pages, "free_pages": pool.free_pages,
                "lane_pages": pool.lane_pages, "quarantined_pages": pool.quarantined_pages,
                "added_pages": pool.added_pages,
            })
        });
        return print_json(&json!({ "pools": pools.collect::<Vec<_>>() }));
    }
    let mut shown = table(&["NODE", "PAGE", "TOTAL", "FREE", "LANES", "QUARANTINED", "ADDED"]);
    for pool in &answer.pools {
        shown.add_row([
            pool.numa_node.to_string(),
            size(pool.page_size_bytes),
            pool.total_pages.to_string(),
            pool.free_pages.to_string(),
            pool.lane_pages.to_string(),
            pool.quarantined_pages.to_string(),
            pool.added_pages.to_string(),
        ]);
    }
    println!("{shown}");
    Ok(())
}

pub(super) fn capabilities(answer: &v1::GetCapabilitiesResponse, form: Output) -> CliResult {
    if form == Output::Json {
        let list = answer.capabilities.iter().map(|capability| {
            json!({
                "name": capability.name, "available": capability.available,
                "detail": capability.detail,
            })
        });
        return print_json(&json!({
            "version": answer.version, "format_major": answer.format_major,
            "capabilities": list.collect::<Vec<_>>(),
        }));
    }
    let mut shown = table(&["FEATURE", "WORKS", "DETAIL"]);
    for capability in &answer.capabilities {
        let works = if capability.available { "yes" } else { "no" };
        shown.add_row([capability.name.as_str(), works, capability.detail.as_str()]);
    }
    println!("{shown}");
    Ok(())
}

pub(super) fn doctor(findings: &[Finding], form: Output) -> CliResult {
    if form == Output::Json {
        return print_json(&json!({ "findings": findings }));
    }
    let mut shown = table(&["FEATURE", "WORKS", "FOUND", "TO CHANGE IT"]);
    for finding in findings {
        let works = match (finding.works, finding.required) {
            (true, _) => "yes",
            (false, true) => "NO, required",
            (false, false) => "no",
        };
        shown.add_row([finding.name, works, finding.found.as_str(), finding.fix.as_str()]);
    }
    println!("{shown}");
    Ok(())
}
