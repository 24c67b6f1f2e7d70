//! Streams that cross newer wants from the same place.

use std::num::NonZeroU64;

use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const STRAND: OriginatorId = OriginatorId(200);
const OTHER: OriginatorId = OriginatorId(300);
const AFTER: SequenceId = SequenceId(5);

/// Wants for [`STRAND`], all from one place, with requests numbered from 11, behind one for another strand.
fn replaced(count: u64) -> OpenWants {
    let wants = OpenWants::default();
    let want = |originator, after| Want::envelopes(originator, after, None);
    wants.open(RequestId(10), want(OTHER, SequenceId::NONE));
    (1..=count).for_each(|request| wants.open(RequestId(10 + request), want(STRAND, AFTER)));
    wants
}

fn header(want: u64) -> StreamHeader {
    StreamHeader { originator: STRAND, after: AFTER, want: NonZeroU64::new(want) }
}

/// The request that a stream is taken for the answer to, and the end of its reading; `None` for one that is late.
fn matched(wants: &OpenWants, header: StreamHeader) -> Option<(RequestId, oneshot::Receiver<()>)> {
    match wants.match_stream(header).unwrap() {
        StreamMatch::Answer(request, ended) => Some((request, ended)),
        StreamMatch::Late => None,
    }
}

fn is_unrequested(wants: &OpenWants, header: StreamHeader) -> bool {
    matches!(wants.match_stream(header), Err(PeerError::Unrequested))
}

#[test]
fn a_stream_with_a_number_answers_that_want_in_whatever_order_streams_come() {
    // The numbers of the three wants are 2, 3 and 4.
    for order in [[2, 3, 4], [4, 2, 3], [3, 4, 2]] {
        let wants = replaced(3);
        let mut answers = Vec::new();
        for number in order {
            answers.extend(matched(&wants, header(number)));
        }
        let [(request, ended)] = &mut answers[..] else { panic!("one of them is the answer") };
        assert_eq!(*request, RequestId(13));
        assert_eq!(ended.try_recv(), Err(TryRecvError::Empty), "it is read on");
    }
}

#[test]
fn an_earlier_want_is_answered_to_no_one_once_it_was_taken_back() {
    let wants = replaced(1);
    wants.close(STRAND);
    assert!(matched(&wants, header(2)).is_none());
    wants.open(RequestId(20), Want::envelopes(STRAND, AFTER, None));
    assert!(matched(&wants, header(2)).is_none(), "the new one has another number");
    assert_eq!(matched(&wants, header(3)).map(|it| it.0), Some(RequestId(20)));
}

#[test]
fn numbers_that_fit_no_want_are_refused() {
    let wants = replaced(2);
    assert!(is_unrequested(&wants, header(1)), "that of another strand");
    assert!(is_unrequested(&wants, header(4)), "one that was not sent");
    assert!(is_unrequested(&wants, StreamHeader { after: AFTER.next(), ..header(3) }));
    assert!(is_unrequested(&wants, StreamHeader { originator: OriginatorId(400), ..header(3) }));
    let answer = matched(&wants, header(3));
    assert!(answer.is_some());
    assert!(is_unrequested(&wants, header(3)), "each want has one stream");
}

#[test]
fn without_numbers_the_newer_stream_answers_the_newer_want() {
    let wants = replaced(2);
    let (first, mut ended) = matched(&wants, header(0)).unwrap();
    let (second, _reading) = matched(&wants, header(0)).unwrap();
    assert_eq!((first, second), (RequestId(12), RequestId(12)));
    assert_eq!(ended.try_recv(), Err(TryRecvError::Closed), "the older one is read no further");
    wants.close(STRAND);
    assert!(matched(&wants, header(0)).is_none());
    assert!(is_unrequested(&wants, StreamHeader { after: SequenceId(6), ..header(0) }));
}

/// A hostile node can make a follower replace its wants hundreds of times within the round trip of an honest peer.
#[test]
fn earlier_wants_are_bounded_and_a_stream_of_a_forgotten_one_is_late() {
    let last = u64::try_from(EARLIER_MAX).unwrap() + 2;
    let wants = replaced(last);
    assert_eq!(wants.state.lock().strands[&STRAND].earlier.len(), EARLIER_MAX);
    assert!((2..=last).all(|number| matched(&wants, header(number)).is_none()), "2 is forgotten");
    assert!(matched(&wants, StreamHeader { after: SequenceId::NONE, ..header(0) }).is_none());
    assert!(is_unrequested(&wants, header(last + 2)), "one that was not sent");
    assert!(is_unrequested(&wants, StreamHeader { after: AFTER.next(), ..header(last) }));
    assert!(matched(&wants, header(last + 1)).is_some());
}
