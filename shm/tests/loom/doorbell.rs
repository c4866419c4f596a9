//! Ends that wait in epoll, under every interleaving: asleep by their parked word, woken by a byte
//! that stays in the lifeline until it is read.

use super::*;

impl Segment {
    /// As epoll with a lifeline: returns once there is a byte, and takes it.
    fn hear(&self) {
        let mut rung = self.0.lifeline.lock().expect("loom's locks never poison");
        while !*rung {
            rung = self.0.heard.wait(rung).expect("loom's locks never poison");
        }
        *rung = false;
    }
}

/// Both ends and the segments over whose lifelines they are rung for.
fn open(lane: &Lane) -> (Sender, Receiver, [Segment; 2]) {
    let geometry = lane.geometry();
    let producer = Segment::producer(&geometry, lane.producer);
    let consumer = Segment::consumer(lane.consumer);
    let mut writer = Writer::new(producer.clone(), geometry, lane.wait, 0, 0);
    let mut reader = Reader::new(consumer.clone(), geometry, lane.wait, 0, 1);
    writer.join(consumer.clone(), 1);
    reader.join(producer.clone());
    (writer, reader, [producer, consumer])
}

/// The next message, awaited as an async end does.
fn await_message(lane: &Lane, reader: &mut Receiver, own: &Segment) -> Vec<u8> {
    loop {
        reader.stop_listening();
        if let Some(Found::Message(span)) = reader.poll().expect("the producer is honest") {
            let bytes = copy(reader, &span);
            reader.release(&span);
            assert_eq!(bytes.len(), lane.payload as usize);
            return bytes;
        }
        if reader.listen() {
            own.hear();
        }
    }
}

/// Room for a message, likewise.
fn await_room(writer: &mut Sender, own: &Segment, len: usize) -> Span {
    loop {
        writer.stop_listening();
        if let Some(span) = writer.try_reserve(len).expect("the consumer is honest") {
            return span;
        }
        let slots = writer.geometry().slots_for(len);
        if writer.listen(slots).expect("the consumer is honest") {
            own.hear();
        }
    }
}

/// A consumer that awaits more messages than one sleep, of a producer that does not wait.
fn awaiting(lane: Lane) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (mut writer, mut reader, [_, own]) = open(&lane);
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                send(&lane, &mut writer, &lane.message(number));
            }
        });
        for number in 1..=2 {
            assert_eq!(await_message(&lane, &mut reader, &own), lane.message(number));
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn an_awaiting_consumer_is_rung_for_at_every_message() {
    explore("consumer awaits", (Some(4), Some(6)), awaiting(PARK));
}

#[test]
fn a_consumer_that_gave_up_its_first_wait_is_rung_for_in_the_next() {
    explore("consumer gives up", SMALL, || {
        let (mut writer, mut reader, [_, own]) = open(&PARK);
        let producer = thread::spawn(move || send(&PARK, &mut writer, &PARK.message(1)));
        // A future that was dropped where it waits: the ring for it may come later.
        if reader.listen() {
            reader.stop_listening();
        }
        assert_eq!(await_message(&PARK, &mut reader, &own), PARK.message(1));
        producer.join().expect("no panic");
    });
}

/// A producer that awaits room; the consumer spins.
fn awaiting_room(lane: Lane) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (mut writer, mut reader, [own, _]) = open(&lane);
        for number in 1..=2 {
            send(&lane, &mut writer, &lane.message(number));
        }
        let spins = Lane { wait: WaitMode::Spin, ..lane };
        let consumer = thread::spawn(move || {
            for number in 1..=3 {
                assert_eq!(receive(&spins, &mut reader), lane.message(number));
            }
        });
        let span = await_room(&mut writer, &own, lane.payload as usize);
        writer.write(&span, 0, &lane.message(3));
        writer.commit(&span);
        consumer.join().expect("no panic");
    }
}

#[test]
fn a_producer_that_awaits_room_is_rung_for_at_a_release() {
    explore("producer awaits", MEDIUM, awaiting_room(PARK));
}

/// More messages than slots; `asleep` is whether the producer sleeps on its futex.
fn both_wait(asleep: bool) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (mut writer, mut reader, [producers, consumers]) = open(&PARK);
        let producer = thread::spawn(move || {
            for number in 1..=3 {
                let span = match asleep {
                    true => room(&PARK, &mut writer, 8),
                    false => await_room(&mut writer, &producers, 8),
                };
                writer.write(&span, 0, &PARK.message(number));
                writer.commit(&span);
            }
        });
        for number in 1..=3 {
            assert_eq!(await_message(&PARK, &mut reader, &consumers), PARK.message(number));
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn ends_that_await_each_other_or_one_that_sleeps_never_wait_for_ever() {
    explore("both await", (Some(2), Some(4)), both_wait(false));
    explore("one awaits, one sleeps", (Some(2), Some(4)), both_wait(true));
}

#[test]
fn every_left_out_fence_of_an_awaiting_end_is_caught() {
    for (name, producer, consumer) in [
        ("writer without fence", Fault::Fence, Fault::None),
        ("awaiting reader without fence", Fault::None, Fault::Fence),
    ] {
        assert_caught(name, awaiting(Lane { producer, consumer, ..PARK }));
    }
    for (name, producer, consumer) in [
        ("awaiting writer without fence", Fault::Fence, Fault::None),
        ("reader without fence", Fault::None, Fault::Fence),
    ] {
        assert_caught(name, awaiting_room(Lane { producer, consumer, ..PARK }));
    }
}
