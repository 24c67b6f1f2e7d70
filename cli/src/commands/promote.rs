//! `hawser promote`: the folder of a replica becomes that of a node. See `docs/runbooks/standby.md`.

use hawser_node::error::RunError;
use hawser_node::service::promote::{self, PromoteError, PromotedFolder};
use hawser_node::settings;
use hawser_proto::OriginatorId;
use hawser_storage::PromotionError;
use serde_json::json;

use super::rebuild;
use crate::args::backup::PromoteArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When the operator does not confirm, the folder is not that of a stopped replica, or it does not have the strand of
/// the node with the key. In these cases nothing has been changed.
pub(super) fn run(args: &PromoteArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let node = OriginatorId(args.node_id);
    if !args.yes {
        // This machine cannot see the old process of the node.
        let question = format!(
            "Has every process with the key of node {node} ended for good, so that none can start it again?"
        );
        output::confirm(question, "nothing was changed")?;
    }
    let wanted = args.network.as_deref();
    let promoted = promote::promote(&data_dir, wanted, node, args.signer).map_err(refusal)?;
    let PromotedFolder { network, head, newest, newest_ns } = &promoted;
    if as_json {
        output::line(json!({
            "network": network,
            "node_id": node.0,
            "signer": args.signer.to_string(),
            "head": head.0,
            "newest": newest.0,
            "newest_ns": newest_ns,
            "data_dir": data_dir,
        }));
        return Ok(());
    }
    output::line(format_args!(
        "{} is the data folder of node {node} of network {network:?} now; {}",
        data_dir.display(),
        end_of_strand(&promoted)
    ));
    output::line(
        "start `hawser node` on it with the node's key and without --new-strand: it is in quarantine until its peers \
         have shown the end of its strand. Before that, confirm (hawser restore confirm) only if the \
         node has signed far fewer than a million places since that time, and only if it was neither promoted nor \
         restored since then: it would sign places a second time",
    );
    Ok(())
}

/// Returns the end of the node's strand in a folder, and the time from which on the folder may lack envelopes, as text.
fn end_of_strand(promoted: &PromotedFolder) -> String {
    let PromotedFolder { head, newest, newest_ns, .. } = promoted;
    let time = output::time(*newest_ns);
    if newest == head {
        return format!("the node's strand ends at {head} there, with an envelope of {time}");
    }
    format!(
        "the node's strand ends at {head} there, without the envelope of that place; the newest one that is there, at \
         {newest}, is of {time}"
    )
}

fn refusal(error: PromoteError) -> RunError {
    match error {
        PromoteError::Open(error) => rebuild::refusal(error),
        PromoteError::Folder(PromotionError::NoNode { .. }) => RunError::usage(error),
        PromoteError::Folder(PromotionError::NoStrand { .. }) => RunError::not_found(error),
        PromoteError::Folder(PromotionError::OfNode { .. } | PromotionError::Unverified { .. })
        | PromoteError::OtherNetwork { .. }
        | PromoteError::OtherSigner { .. }
        | PromoteError::NoPlacesLeft { .. } => RunError::refused(error),
        PromoteError::Folder(
            PromotionError::Read(_) | PromotionError::Write(_) | PromotionError::Unsettled { .. },
        )
        | PromoteError::Unreadable { .. }
        | PromoteError::Flush(_) => RunError::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    #[test]
    fn the_time_is_that_of_an_envelope_which_the_folder_has() {
        let network = "testnet".to_owned();
        let (head, newest) = (SequenceId(3), SequenceId(3));
        let whole = PromotedFolder { network, head, newest, newest_ns: 0 };
        let at = "1970-01-01T00:00:00.000000000Z";
        let ends = format!("the node's strand ends at 3 there, with an envelope of {at}");
        assert_eq!(end_of_strand(&whole), ends);
        let text = end_of_strand(&PromotedFolder { head: SequenceId(5), ..whole });
        assert!(text.contains("ends at 5 there, without the envelope of that place"), "{text}");
        assert!(text.ends_with(&format!("at 3, is of {at}")), "{text}");
    }
}
