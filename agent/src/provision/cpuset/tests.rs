//! The cpusets against a double of the kernel: who runs where, and that everything goes back,
//! whenever the agent dies.

use super::fake::{FakeTree, State, machine};
use super::*;
use crate::ledger::Role;
use crate::model::id::LaneId;
use crate::model::lane::HeldHow;
use crate::placement::Grade;

const AGENT: i32 = 10;

fn config(others: Option<&str>, share_others: bool) -> CpusetConfig {
    let others = others.map(|cpus| cpus.parse().unwrap());
    CpusetConfig { enabled: true, others, share_others, ..CpusetConfig::default() }
}

fn over(tree: &FakeTree, form: Form, config: &CpusetConfig) -> Result<Cores, CpusetError> {
    Cores::over(Box::new(tree.clone()), String::new(), form, config, AGENT)
}

fn key(lane: u128, role: Role) -> SegmentKey {
    SegmentKey { lane: LaneId(lane), role, number: 1 }
}

const PRODUCER: fn() -> SegmentKey = || key(7, Role::Producer);
const CONSUMER: fn() -> SegmentKey = || key(7, Role::Consumer);

#[test]
fn a_held_core_runs_its_thread_and_nothing_else_in_both_forms() {
    for form in [Form::V1, Form::V2] {
        let tree = machine(form);
        let before = tree.state();
        let mut cores = over(&tree, form, &config(None, false)).unwrap();
        assert_eq!(tree.state(), before, "a proof leaves nothing");
        assert_eq!((cores.lanes().to_string(), cores.shared().len()), ("1-3".to_owned(), 0));
        let hold = cores.survey(PRODUCER(), 20, 21, 3).unwrap();
        let held = cores.hold(&hold).unwrap();
        // The kernel's thread 2 does not move, and 3 is bound: no other task may run there.
        assert_eq!(tree.may_run_on(3).iter().filter(|tid| **tid != 2).collect::<Vec<_>>(), [&21]);
        assert!(!held.shared && !held.whole_process);
        assert_eq!(held.foreign_tasks, 0);
        assert!(held.bound_tasks >= 1, "{held:?}");
        match form {
            Form::V1 => assert_eq!((held.how, held.grade(Grade::B)), (HeldHow::V1, Grade::B)),
            Form::V2 => assert_eq!((held.how, held.grade(Grade::B)), (HeldHow::Isolated, Grade::A)),
        }
        // What came since is moved away, what was moved comes back.
        tree.fork(21, 23, 20);
        tree.fork(1, 50, 50);
        let away = if form == Form::V1 { "elsewhere/tasks" } else { "cgroup.threads" };
        tree.write(Which::Cpuset, away, "21").unwrap();
        assert_eq!(cores.repair(), [PRODUCER()]);
        assert_eq!(cores.repair(), []);
        assert_eq!(tree.may_run_on(3).iter().filter(|tid| **tid != 2).collect::<Vec<_>>(), [&21]);
        // A second one of another process, from a group of somebody else's.
        let second = cores.survey(CONSUMER(), 40, 41, 2).unwrap();
        cores.hold(&second).unwrap();
        assert_eq!(tree.may_run_on(2).iter().filter(|tid| **tid != 2).collect::<Vec<_>>(), [&41]);
        cores.free(PRODUCER()).unwrap();
        assert!(tree.may_run_on(3).contains(&20));
        assert!(!tree.may_run_on(2).contains(&20));
        cores.free(CONSUMER()).unwrap();
        tree.end(23);
        tree.end(50);
        assert_eq!(tree.state(), before, "{form:?}");
    }
}

/// What a test does to cores; with the double alive all of it succeeds.
fn campaign(cores: &mut Cores, journal: &mut Vec<Hold>) -> Result<(), CpusetError> {
    for (key, pid, tid, cpu) in [(PRODUCER(), 20, 21, 1), (CONSUMER(), 40, 41, 3)] {
        let hold = cores.survey(key, pid, tid, cpu)?;
        journal.push(hold.clone());
        cores.hold(&hold)?;
    }
    cores.repair();
    cores.free(PRODUCER())?;
    journal.retain(|hold| hold.key != PRODUCER());
    cores.free(CONSUMER())?;
    journal.clear();
    Ok(())
}

#[test]
fn an_agent_that_dies_at_any_change_leaves_nothing_that_its_successor_does_not_put_back() {
    for (form, share) in [(Form::V1, false), (Form::V1, true), (Form::V2, false)] {
        let config = config(Some(if share { "1" } else { "0" }), share);
        let before = machine(form).state();
        let (mut deaths, mut left) = (0, 0);
        for step in 0.. {
            let tree = machine(form);
            tree.die_after(Some(step));
            let mut journal = Vec::new();
            let done =
                over(&tree, form, &config).and_then(|mut cores| campaign(&mut cores, &mut journal));
            let died = done.is_err();
            tree.die_after(None);
            left += u64::from(tree.state() != before);
            let mut successor = over(&tree, form, &config).unwrap();
            assert_eq!(successor.all.to_string(), "0-3", "{form:?} at change {step}");
            successor.recover(journal.clone(), &HashSet::new());
            assert_eq!(tree.state(), before, "{form:?} at change {step}: {done:?}");
            successor.recover(Vec::new(), &HashSet::new());
            assert_eq!(tree.state(), before, "twice is the same");
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 20, "{form:?}: only {deaths} deaths were played");
        assert!(left > deaths / 2, "{form:?}: {left} of {deaths} deaths left anything behind");
    }
}

#[test]
fn a_successor_keeps_the_cores_of_ends_that_live_and_finishes_what_was_begun() {
    for form in [Form::V1, Form::V2] {
        let config = config(None, false);
        let before = machine(form).state();
        for step in 0..40 {
            let tree = machine(form);
            let mut cores = over(&tree, form, &config).unwrap();
            let first = cores.survey(PRODUCER(), 20, 21, 1).unwrap();
            cores.hold(&first).unwrap();
            let second = cores.survey(CONSUMER(), 40, 41, 3).unwrap();
            tree.die_after(Some(step));
            let _ = cores.hold(&second);
            tree.die_after(None);
            drop(cores);
            let mut successor = over(&tree, form, &config).unwrap();
            // The second was journalled, and its end never became live.
            let keep = HashSet::from([PRODUCER()]);
            successor.recover(vec![first.clone(), second], &keep);
            let free = |cpu| tree.may_run_on(cpu).into_iter().filter(|tid| *tid != 2);
            assert_eq!(free(1).collect::<Vec<_>>(), [21], "{form:?} at change {step}");
            assert!(free(3).count() > 3, "{form:?} at change {step}");
            assert_eq!(tree.group(Which::Cpuset, 41).as_deref(), Some("elsewhere"));
            successor.free(PRODUCER()).unwrap();
            assert_eq!(tree.state(), before, "{form:?} at change {step}");
        }
    }
}

#[test]
fn a_thread_that_died_while_held_leaves_nothing() {
    for form in [Form::V1, Form::V2] {
        let tree = machine(form);
        let mut cores = over(&tree, form, &config(None, false)).unwrap();
        let hold = cores.survey(PRODUCER(), 40, 41, 1).unwrap();
        cores.hold(&hold).unwrap();
        tree.end(41);
        assert_eq!(cores.repair(), []);
        cores.free(PRODUCER()).unwrap();
        assert_eq!(tree.group(Which::Cpuset, 40).as_deref(), Some("elsewhere"), "{form:?}");
        let expected = machine(form);
        expected.end(41);
        assert_eq!(tree.state(), expected.state());
    }
}

#[test]
fn where_others_share_a_core_everything_but_init_agent_and_kernel_has_next_to_no_weight() {
    let tree = machine(Form::V1);
    let before: State = tree.state();
    let mut cores = over(&tree, Form::V1, &config(Some("3"), true)).unwrap();
    assert_eq!((cores.lanes().to_string(), cores.shared().to_string()), ("0-3".into(), "3".into()));
    let alone = cores.survey(PRODUCER(), 20, 21, 2).unwrap();
    assert!(!cores.hold(&alone).unwrap().shared);
    assert_eq!(tree.read(Which::Cpu, "laneway-others/tasks").ok(), None, "nobody shares yet");
    let shared = cores.survey(CONSUMER(), 20, 22, 3).unwrap();
    let held = cores.hold(&shared).unwrap();
    assert!(held.shared);
    assert_eq!(held.grade(Grade::B), Grade::C, "never said to be better than it is");
    assert_eq!(tree.read(Which::Cpu, "laneway-others/cpu.idle").unwrap(), "1");
    assert_eq!(tree.read(Which::Cpu, "laneway-others/tasks").unwrap(), "20\n30\n");
    assert_eq!(tree.read(Which::Cpuset, "laneway-others/cpuset.cpus").unwrap(), "0-1,3");
    cores.free(CONSUMER()).unwrap();
    assert_eq!(tree.read(Which::Cpu, "laneway-others/tasks").ok(), None);
    cores.free(PRODUCER()).unwrap();
    assert_eq!(tree.state(), before);
}

#[test]
fn tasks_in_cpusets_of_somebody_elses_are_left_alone_and_cost_the_grade() {
    let tree = machine(Form::V1);
    let mut cores = over(&tree, Form::V1, &config(Some("1"), false)).unwrap();
    let hold = cores.survey(PRODUCER(), 20, 21, 0).unwrap();
    let held = cores.hold(&hold).unwrap();
    assert_eq!(held.foreign_tasks, 2);
    assert_eq!(held.grade(Grade::B), Grade::C);
    assert_eq!(tree.group(Which::Cpuset, 40).as_deref(), Some("elsewhere"));
}

#[test]
fn a_task_that_the_kernel_does_not_move_is_counted_and_stops_nothing() {
    for share in [false, true] {
        let tree = machine(Form::V1);
        tree.refuse_to_move(30);
        let before = tree.state();
        let mut cores = over(&tree, Form::V1, &config(Some("3"), share)).unwrap();
        let hold = cores.survey(PRODUCER(), 20, 21, if share { 3 } else { 2 }).unwrap();
        let held = cores.hold(&hold).unwrap();
        assert_eq!(held.foreign_tasks, 1, "{held:?}");
        cores.free(PRODUCER()).unwrap();
        assert_eq!(tree.state(), before);
    }
}

#[test]
fn a_partition_that_the_kernel_calls_invalid_is_refused_with_its_words_and_taken_back() {
    let tree = machine(Form::V2);
    tree.write(Which::Cpuset, "cgroup.subtree_control", "+cpuset").unwrap();
    tree.write(Which::Cpuset, "elsewhere/cpuset.cpus", "2-3").unwrap();
    let before = tree.state();
    let mut cores = over(&tree, Form::V2, &config(None, false)).unwrap();
    let hold = cores.survey(PRODUCER(), 20, 21, 3).unwrap();
    let refused = cores.hold(&hold).unwrap_err();
    assert!(refused.to_string().contains("not exclusive"), "{refused}");
    assert_eq!(tree.state(), before);
}

#[test]
fn where_the_kernel_moves_no_single_thread_the_process_moves_and_the_report_says_so() {
    let tree = machine(Form::V2);
    tree.allow_threads(false);
    let before = tree.state();
    let mut cores = over(&tree, Form::V2, &config(None, false)).unwrap();
    let hold = cores.survey(PRODUCER(), 40, 41, 3).unwrap();
    assert!(cores.hold(&hold).unwrap().whole_process);
    assert_eq!(tree.group(Which::Cpuset, 40), tree.group(Which::Cpuset, 41));
    cores.free(PRODUCER()).unwrap();
    assert_eq!(tree.state(), before);
}

#[test]
fn what_cannot_work_is_refused_at_start_with_what_would() {
    let start = |form, others, share| {
        over(&machine(form), form, &config(others, share)).unwrap_err().to_string()
    };
    assert!(start(Form::V1, Some("0-3"), false).contains("cpuset.share_others"));
    assert!(start(Form::V1, Some("4"), false).contains("0-3"));
    assert!(start(Form::V2, Some("0"), true).contains("cgroup v1"));
    let pods = FakeTree::new(Form::V2, "0-3");
    refuse_kubelet(&pods).unwrap();
    pods.make(Which::Cpuset, "kubepods.slice").unwrap();
    let refused = refuse_kubelet(&pods).unwrap_err().to_string();
    assert!(refused.contains("kubepods.slice") && refused.contains("cpuset.force"), "{refused}");
}
