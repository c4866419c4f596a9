//! Cores in cpusets of the agent's own, with a real kernel: cgroup v1, in a corner of the node that
//! belongs to the test. cgroup v2 is played by a double, in `agent/src/provision/cpuset/tests.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use laneway_proto::v1::{self, Role, end_status::State};
use laneway_shm::{Attach, AttachError, Producer};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::cpusets::Corner;
use laneway_tests::process::{PATIENCE, Running};
use laneway_tests::{skipped, turn};
use nix::unistd::gettid;

/// A corner, a bystander in it, and the configuration of an agent that divides its cores.
struct Scene {
    // Dropped in this order: the bystander ends before its place goes.
    bystander: Running,
    corner: Corner,
    dir: tempfile::TempDir,
}

impl Scene {
    fn set(test: &str) -> Option<Self> {
        let enough = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
        let corner = if enough { Corner::enter() } else { None };
        let Some(corner) = corner else {
            skipped(test, "needs two cpus, and root on a node with cgroup v1");
            return None;
        };
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let bystander = Running::start(sleep);
        Some(Self { bystander, corner, dir: tempfile::tempdir().unwrap() })
    }

    /// An agent whose lanes may have cpu 1, or both cpus.
    fn agent(&self, share_others: bool) -> Agent {
        let others = if share_others { "1" } else { "0" };
        let text = format!(
            "version = 1\n[cpuset]\nenabled = true\nroot = {:?}\nothers = \"{others}\"\n\
             share_others = {share_others}\n",
            self.corner.cpuset()
        );
        let file = self.dir.path().join("laneway.toml");
        fs::write(&file, text).unwrap();
        Agent::with(&["--config", file.to_str().unwrap()])
    }

    /// Everything of the corner, and where this thread and the bystander are.
    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let process = i32::try_from(std::process::id()).unwrap();
        self.corner.snapshot(&[process, gettid().as_raw(), self.bystander.pid().as_raw()])
    }

    fn wait_until_it_is(&self, before: &BTreeMap<PathBuf, String>, agent: &Agent) {
        let deadline = Instant::now() + PATIENCE;
        while self.snapshot() != *before {
            let now = self.snapshot();
            assert!(Instant::now() < deadline, "{before:#?}\n{now:#?}\n{}", agent.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn bystanders_cpus(&self) -> String {
        allowed(&format!("/proc/{}/status", self.bystander.pid()))
    }
}

fn allowed(status: &str) -> String {
    let text = fs::read_to_string(status).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

fn my_group(controller: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    let line = text.lines().find(|line| line.split(':').nth(1) == Some(controller));
    Path::new(line.unwrap().splitn(3, ':').nth(2).unwrap())
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// A lane of whose ends these are held, on these cpus.
fn held(name: &str, producer: Option<u32>, consumer: Option<u32>) -> v1::LaneSpec {
    let end = |cpu: Option<u32>| {
        let pinning = if cpu.is_some() { v1::Pinning::Cpuset } else { v1::Pinning::None };
        let exclusive = cpu.is_some();
        Some(v1::EndSpec { pinning: pinning.into(), exclusive, cpu, ..v1::EndSpec::default() })
    };
    v1::LaneSpec { producer: end(producer), consumer: end(consumer), ..plain(name, 56, 64) }
}

fn producer(agent: &Agent, lane: &str) -> Result<Producer, AttachError> {
    Attach::with_ticket(agent.attach_socket(), &agent.ticket(lane, Role::Producer))?.producer()
}

#[test]
fn a_held_core_runs_nothing_else_and_at_detach_everything_is_as_it_was() {
    let _turn = turn();
    let Some(scene) = Scene::set("a_held_core_runs_nothing_else") else { return };
    let agent = scene.agent(false);
    let before = scene.snapshot();
    assert_eq!(scene.bystanders_cpus(), "0-1");
    agent.create(held("held", Some(1), None)).unwrap();
    let end = producer(&agent, "held").unwrap();
    assert_eq!(my_group("cpuset"), "laneway-cpu1");
    assert_eq!(allowed("/proc/thread-self/status"), "1");
    assert_eq!(scene.bystanders_cpus(), "0");
    assert_eq!(allowed(&format!("/proc/{}/status", agent.pid())), "0");
    // What the held thread starts does not stay on its core, what is born elsewhere never comes.
    let mut child = Command::new("sleep");
    child.arg("600").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Running::start(child);
    let deadline = Instant::now() + PATIENCE;
    while allowed(&format!("/proc/{}/status", child.pid())) != "0" {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = agent.get("held").unwrap().producer.unwrap();
    assert_eq!(seen.pinning(), v1::Pinning::Cpuset);
    assert_eq!(
        (seen.facts["cpuset"].as_str(), seen.facts["cpuset_shared"].as_str()),
        ("v1", "false")
    );
    // The node outside of the corner reaches the core: that is said.
    assert_ne!(seen.facts["cpuset_foreign_tasks"], "0");
    assert_eq!(seen.grade(), v1::Grade::C);
    drop(end);
    scene.wait_until_it_is(&before, &agent);
    assert_eq!(scene.bystanders_cpus(), "0-1");
}

#[test]
fn with_both_cores_granted_everything_else_keeps_one_of_them_with_next_to_no_weight() {
    let _turn = turn();
    let Some(scene) = Scene::set("with_both_cores_granted") else { return };
    let agent = scene.agent(true);
    let before = scene.snapshot();
    agent.create(held("both", Some(0), Some(1))).unwrap();
    let grades = agent.get("both").unwrap();
    assert_eq!(grades.producer.unwrap().grade(), v1::Grade::B);
    assert_eq!(grades.consumer.unwrap().grade(), v1::Grade::C, "what is shared is said to be");
    let end = producer(&agent, "both").unwrap();
    let (socket, ticket) = (agent.attach_socket(), agent.ticket("both", Role::Consumer));
    let (attached, wait) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        let consumer = Attach::with_ticket(socket, &ticket).unwrap().consumer().unwrap();
        attached.send((my_group("cpuset"), my_group("cpu"))).unwrap();
        stopped.recv().unwrap_err();
        drop(consumer);
    });
    let (cpuset, cpu) = wait.recv_timeout(PATIENCE).unwrap();
    assert_eq!(cpuset, "laneway-cpu1");
    assert_ne!(cpu, "laneway-others", "the lane's thread has its weight");
    assert_eq!(scene.bystanders_cpus(), "1");
    let group = fs::read_to_string(format!("/proc/{}/cgroup", scene.bystander.pid())).unwrap();
    assert_eq!(group.matches("/laneway-others").count(), 2, "cpuset and cpu: {group}");
    let group = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid())).unwrap();
    assert_eq!(group.matches("/laneway-others").count(), 1, "the agent keeps its weight: {group}");
    drop(stop);
    other.join().unwrap();
    drop(end);
    scene.wait_until_it_is(&before, &agent);
}

#[test]
fn cores_that_others_keep_are_refused_with_what_there_is() {
    let _turn = turn();
    let Some(scene) = Scene::set("cores_that_others_keep_are_refused") else { return };
    let agent = scene.agent(false);
    let reason = |status: &tonic::Status| {
        tonic_types::StatusExt::get_details_error_info(status).unwrap().reason
    };
    let refused = agent.create(held("one", Some(0), None)).unwrap_err();
    assert_eq!(reason(&refused), "CPU_OUTSIDE_CPUSET", "{refused}");
    let mut both = held("two", Some(1), Some(1));
    both.producer.as_mut().unwrap().cpu = None;
    both.consumer.as_mut().unwrap().cpu = None;
    let refused = agent.create(both).unwrap_err();
    assert_eq!(reason(&refused), "CORES_EXHAUSTED", "{refused}");
    let plain_agent = Agent::start();
    let refused = plain_agent.create(held("off", Some(1), None)).unwrap_err();
    assert_eq!(reason(&refused), "PINNING_UNAVAILABLE");
    assert!(refused.message().contains("cpuset.enabled"), "{refused}");
}

#[test]
fn an_agent_that_ends_puts_everything_back_and_its_successor_holds_the_core_again() {
    let _turn = turn();
    let Some(scene) = Scene::set("an_agent_that_ends_puts_everything_back") else { return };
    let mut agent = scene.agent(false);
    let before = scene.snapshot();
    agent.create(held("held", Some(1), None)).unwrap();
    let mut end = producer(&agent, "held").unwrap();
    assert_ne!(scene.snapshot(), before);
    assert!(agent.stop().status.success());
    assert_eq!(scene.snapshot(), before, "put back before the end");
    agent.start_again();
    let deadline = Instant::now() + PATIENCE;
    while my_group("cpuset") != "laneway-cpu1" {
        end.maintain().unwrap();
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    agent.wait_for("held", "the grade is told again", |lane| {
        lane.producer.as_ref().is_some_and(|end| end.facts.contains_key("cpuset"))
    });
    drop(end);
    scene.wait_until_it_is(&before, &agent);
}

#[test]
fn a_killed_agents_cores_stay_held_for_the_living_and_go_back_for_the_dead() {
    let _turn = turn();
    let Some(scene) = Scene::set("a_killed_agents_cores_stay_held") else { return };
    let mut agent = scene.agent(false);
    let before = scene.snapshot();
    agent.create(held("held", Some(1), None)).unwrap();
    let mut end = producer(&agent, "held").unwrap();
    let during = scene.snapshot();
    agent.kill();
    assert_eq!(scene.snapshot(), during, "the lane keeps its core while no agent runs");
    agent.start_again();
    assert_eq!(scene.snapshot(), during, "and under the next one");
    let deadline = Instant::now() + PATIENCE;
    while agent.get("held").unwrap().producer.unwrap().state() != State::Live {
        end.maintain().unwrap();
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    agent.kill();
    drop(end);
    agent.start_again();
    // The process lives, and nobody came to say that its end is gone: deleting the lane tells.
    agent.delete("held").unwrap();
    scene.wait_until_it_is(&before, &agent);
    agent.kill();
    agent.start_again();
    assert_eq!(scene.snapshot(), before);
}

#[test]
fn an_agent_killed_at_any_instant_of_an_attach_leaves_nothing_that_its_successor_does_not_put_back()
{
    let _turn = turn();
    let Some(scene) = Scene::set("an_agent_killed_at_any_instant") else { return };
    let mut agent = scene.agent(false);
    let before = scene.snapshot();
    let mut caught = 0;
    for round in 0..24u64 {
        let lane = format!("round-{round}");
        agent.create(held(&lane, Some(1), None)).unwrap();
        let (socket, ticket) = (agent.attach_socket(), agent.ticket(&lane, Role::Producer));
        let client = std::thread::spawn(move || {
            // Refused, broken off or granted: whatever the agent came to.
            let _ = Attach::with_ticket(socket, &ticket).and_then(|end| end.producer());
        });
        std::thread::sleep(Duration::from_micros(round * 400));
        agent.kill();
        caught += u64::from(scene.snapshot() != before);
        client.join().unwrap();
        agent.start_again();
        let _ = agent.delete(&lane);
        scene.wait_until_it_is(&before, &agent);
    }
    println!("the agent died {caught} times of 24 with a core in hand");
}

#[test]
fn a_second_agent_on_the_same_cpuset_is_told_who_holds_it_and_does_not_start() {
    let _turn = turn();
    let Some(scene) = Scene::set("a_second_agent_on_the_same_cpuset") else { return };
    let first = scene.agent(false);
    let dir = scene.dir.path().join("second");
    let mut second = laneway_tests::process::laneway();
    second.arg("agent").arg("--config").arg(scene.dir.path().join("laneway.toml"));
    second.arg("--run-dir").arg(dir.join("run")).arg("--state-dir").arg(dir.join("state"));
    let finished = Running::start(second).finish();
    assert!(!finished.status.success());
    assert!(finished.stderr.contains("another agent holds"), "{}", finished.stderr);
    assert!(first.list().unwrap().is_empty());
}
