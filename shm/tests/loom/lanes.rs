//! One reader that sleeps over several rings, under every interleaving.

use laneway_shm::ring::sleep_on_all;

use super::*;

/// Sleeps on many bells of one kernel, as `futex_waitv` does.
fn wait_any(kernel: &Kernel, bells: &[(&Segment, u32)], limit: Duration) -> bool {
    if limit < FOR_EVER {
        thread::yield_now();
        return false;
    }
    let as_expected =
        |(peer, rung): &(&Segment, u32)| peer.short(P_BELL).load(Ordering::Acquire) == *rung;
    kernel.wait(|| bells.iter().all(as_expected));
    true
}

/// Two lanes whose sleepers sleep in one place.
fn two_lanes(lanes: [Lane; 2]) -> (Rc<Kernel>, [(Sender, Receiver); 2]) {
    let kernel = Kernel::new();
    let open = |lane: Lane| {
        let geometry = lane.geometry();
        let producer = Segment::producer(&geometry, lane.producer).below(&kernel);
        let consumer = Segment::consumer(lane.consumer).below(&kernel);
        let mut writer = Writer::new(producer.clone(), geometry, lane.wait, 0, 0);
        let mut reader = Reader::new(consumer.clone(), geometry, lane.wait, 0, 1);
        writer.join(consumer, 1);
        reader.join(producer);
        (writer, reader)
    };
    let opened = lanes.map(open);
    (kernel, opened)
}

/// Takes `messages` of each lane, sleeping over both; a deaf one does not hear the first bell.
fn read_both(kernel: &Kernel, mut readers: [&mut Receiver; 2], messages: u64, deaf: bool) {
    while readers.iter().any(|reader| reader.position() < messages) {
        let mut found = false;
        for reader in &mut readers {
            if let Some(Found::Message(span)) = reader.poll().expect("an honest producer") {
                assert_eq!(copy(reader, &span), PARK.message(reader.position() + 1));
                reader.release(&span);
                found = true;
            }
        }
        if !found {
            let mut asleep: Vec<_> = readers.iter_mut().map(|reader| &mut **reader).collect();
            sleep_on_all(&mut asleep, FOR_EVER, |bells, limit| {
                wait_any(kernel, &bells[usize::from(deaf)..], limit)
            });
        }
    }
}

/// One thread sends to both lanes in turn.
fn one_sender(lanes: [Lane; 2], deaf: bool) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (kernel, [(mut first, mut a), (mut second, mut b)]) = two_lanes(lanes);
        let producer = thread::spawn(move || {
            send(&PARK, &mut second, &PARK.message(1));
            send(&PARK, &mut first, &PARK.message(1));
        });
        read_both(&kernel, [&mut a, &mut b], 1, deaf);
        producer.join().expect("no panic");
    }
}

/// Each lane has a thread of its own.
fn two_senders() {
    let (kernel, [(mut first, mut a), (mut second, mut b)]) = two_lanes([PARK, PARK]);
    let producers = [
        thread::spawn(move || send(&PARK, &mut first, &PARK.message(1))),
        thread::spawn(move || send(&PARK, &mut second, &PARK.message(1))),
    ];
    read_both(&kernel, [&mut a, &mut b], 1, false);
    producers.into_iter().for_each(|producer| producer.join().expect("no panic"));
}

#[test]
fn a_message_in_any_of_several_lanes_ends_the_one_sleep_over_all() {
    explore("two lanes, one sender", (Some(3), Some(4)), one_sender([PARK, PARK], false));
    explore("two lanes, two senders", (Some(2), Some(3)), two_senders);
}

#[test]
fn every_left_out_order_of_the_sleep_over_several_lanes_is_caught() {
    let writer = Lane { producer: Fault::Fence, ..PARK };
    let reader = Lane { consumer: Fault::Fence, ..PARK };
    // The last to be sent to: no other ring makes up for it.
    assert_caught("writer of one without fence", one_sender([writer, PARK], false));
    // One fence stands for all: the first lane's.
    assert_caught("one fence for all left out", one_sender([reader, PARK], false));
    assert_caught("a bell that nobody listens to", one_sender([PARK, PARK], true));
}
