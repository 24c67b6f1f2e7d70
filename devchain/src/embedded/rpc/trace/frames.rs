//! The calls of a transaction in the format of go-ethereum's `callTracer`.

use alloy::primitives::{Address, Bytes, U64, U256};
use alloy::sol_types::{Revert, SolError as _};
use revm::Inspector;
use revm::context::result::HaltReason;
use revm::context::{ContextTr, CreateScheme};
use revm::interpreter::{
    CallInputs, CallOutcome, CallScheme, CreateInputs, CreateOutcome, InterpreterResult,
    SuccessOrHalt,
};
use serde::Serialize;

use crate::embedded::evm;

/// The largest total of recorded calls, in bytes. A bound is needed because the gas of a block pays for many
/// copies of the same memory. Guess.
const RECORDED_BYTES_MAX: usize = 64 << 20;
/// The number of bytes that a call counts in addition to its input and output: about the size of a frame.
const FRAME_BYTES: usize = 256;

/// One call, with the calls that it made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallFrame {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) from: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Address>,
    /// Absent for a static call, which has no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<U256>,
    pub(super) gas: U64,
    pub(super) gas_used: U64,
    pub(super) input: Bytes,
    #[serde(flatten)]
    pub(super) end: CallEnd,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) calls: Vec<CallFrame>,
}

/// The result of a call.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallEnd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revert_reason: Option<String>,
}

impl CallEnd {
    pub(super) fn success(output: Bytes) -> Self {
        Self { output: (!output.is_empty()).then_some(output), ..Self::default() }
    }

    pub(super) fn revert(output: Bytes) -> Self {
        let revert_reason = Revert::abi_decode(&output).ok().map(|revert| revert.reason);
        let error = Some("execution reverted".to_owned());
        Self { error, revert_reason, ..Self::success(output) }
    }

    pub(super) fn halt(message: String) -> Self {
        Self { error: Some(message), ..Self::default() }
    }

    fn of(result: &InterpreterResult) -> Self {
        match SuccessOrHalt::<HaltReason>::from(result.result) {
            SuccessOrHalt::Success(_) => Self::success(result.output.clone()),
            SuccessOrHalt::Revert => Self::revert(result.output.clone()),
            SuccessOrHalt::Halt(reason) => Self::halt(evm::halt_message(&reason)),
            SuccessOrHalt::FatalExternalError | SuccessOrHalt::Internal(_) => {
                Self::halt(format!("{:?}", result.result))
            }
        }
    }
}

/// An inspector that records the calls of a transaction while it runs.
#[derive(Debug, Default)]
pub(super) struct CallRecorder {
    /// Calls that have not ended, the outermost first.
    open: Vec<CallFrame>,
    /// The outermost call after its end.
    pub(super) outermost: Option<CallFrame>,
    recorded_bytes: usize,
}

impl CallRecorder {
    /// Returns true if the calls exceed the bound, so that inputs and calls were left out.
    pub(super) fn is_full(&self) -> bool {
        self.recorded_bytes > RECORDED_BYTES_MAX
    }

    /// Counts the bytes of a call. Returns false if the bound is exceeded.
    fn count_bytes(&mut self, bytes: usize) -> bool {
        self.recorded_bytes = self.recorded_bytes.saturating_add(bytes).saturating_add(FRAME_BYTES);
        !self.is_full()
    }

    fn end(&mut self, result: &InterpreterResult, created: Option<Address>) {
        let Some(mut frame) = self.open.pop() else { return };
        let takes = self.count_bytes(result.output.len());
        frame.gas_used = U64::from(result.gas.total_gas_spent());
        frame.to = frame.to.or(created);
        if takes {
            frame.end = CallEnd::of(result);
        }
        self.keep(frame);
    }

    fn keep(&mut self, frame: CallFrame) {
        let full = self.is_full();
        match self.open.last_mut() {
            Some(parent) if !full => parent.calls.push(frame),
            Some(_) => {}
            None => self.outermost = Some(frame),
        }
    }
}

impl<C: ContextTr> Inspector<C> for CallRecorder {
    fn call(&mut self, context: &mut C, inputs: &mut CallInputs) -> Option<CallOutcome> {
        let takes = self.count_bytes(inputs.input.len());
        let input = if takes { inputs.input.bytes(context) } else { Bytes::new() };
        let (kind, from) = match inputs.scheme {
            CallScheme::Call => ("CALL", inputs.caller),
            CallScheme::CallCode => ("CALLCODE", inputs.caller),
            CallScheme::DelegateCall => ("DELEGATECALL", inputs.target_address),
            CallScheme::StaticCall => ("STATICCALL", inputs.caller),
        };
        self.open.push(CallFrame {
            kind,
            from,
            to: Some(inputs.bytecode_address),
            value: (!inputs.scheme.is_static_call()).then(|| inputs.call_value()),
            gas: U64::from(inputs.gas_limit),
            gas_used: U64::ZERO,
            input,
            end: CallEnd::default(),
            calls: Vec::new(),
        });
        None
    }

    fn call_end(&mut self, _: &mut C, _: &CallInputs, outcome: &mut CallOutcome) {
        self.end(&outcome.result, None);
    }

    fn create(&mut self, _: &mut C, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        let takes = self.count_bytes(inputs.init_code().len());
        self.open.push(CallFrame {
            kind: match inputs.scheme() {
                CreateScheme::Create2 { .. } => "CREATE2",
                CreateScheme::Create | CreateScheme::Custom { .. } => "CREATE",
            },
            from: inputs.caller(),
            to: None,
            value: Some(inputs.value()),
            gas: U64::from(inputs.gas_limit()),
            gas_used: U64::ZERO,
            input: if takes { inputs.init_code().clone() } else { Bytes::new() },
            end: CallEnd::default(),
            calls: Vec::new(),
        });
        None
    }

    fn create_end(&mut self, _: &mut C, _: &CreateInputs, outcome: &mut CreateOutcome) {
        self.end(&outcome.result, outcome.address);
    }

    fn selfdestruct(&mut self, contract: Address, target: Address, value: U256) {
        if !self.count_bytes(0) {
            return;
        }
        self.keep(CallFrame {
            kind: "SELFDESTRUCT",
            from: contract,
            to: Some(target),
            value: Some(value),
            gas: U64::ZERO,
            gas_used: U64::ZERO,
            input: Bytes::new(),
            end: CallEnd::default(),
            calls: Vec::new(),
        });
    }
}
