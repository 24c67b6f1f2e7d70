//! The check that the processor has the instructions that RocksDB is compiled with.

/// The compiler's flags for RocksDB in this build: those of `.cargo/config.toml`, or of the environment. `None` on
/// systems for which the file sets none.
const COMPILER_FLAGS: Option<&str> =
    if cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        option_env!("CXXFLAGS_x86_64_unknown_linux_gnu")
    } else {
        None
    };

/// The processor lacks instructions that RocksDB is compiled with. The system would end the program without a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor lacks {}, which RocksDB in this program is compiled with: {}",
    .missing.join(" and "), ProcessorError::REMEDY
)]
pub struct ProcessorError {
    /// The names of the missing extensions of the instruction set, as `docs/operating.md` writes them. Never empty.
    pub missing: Vec<&'static str>,
}

impl ProcessorError {
    /// The advised step.
    pub const REMEDY: &'static str = "use another machine, give the virtual machine a processor model that has \
         it (such as `host`), or build the program without it: docs/operating.md, What a node needs";
}

/// The extensions of the instruction set that RocksDB may be compiled with, and this processor's answer for each.
#[derive(Debug, Clone, Copy)]
struct ProcessorFeatures {
    has_sse42: bool,
    has_pclmul: bool,
}

impl ProcessorFeatures {
    /// Asks this processor.
    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        Self {
            has_sse42: std::arch::is_x86_feature_detected!("sse4.2"),
            has_pclmul: std::arch::is_x86_feature_detected!("pclmulqdq"),
        }
    }

    /// Returns an answer that no flag asks for: other architectures have none of these extensions.
    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self { has_sse42: false, has_pclmul: false }
    }
}

/// Returns the names of the extensions that these flags let the compiler use and that the processor lacks.
fn missing(compiler_flags: &str, processor: ProcessorFeatures) -> Vec<&'static str> {
    let extensions = [
        ("-msse4.2", "SSE 4.2", processor.has_sse42),
        ("-mpclmul", "PCLMUL", processor.has_pclmul),
    ];
    let is_used = |flag: &str| compiler_flags.split_whitespace().any(|it| it == flag);
    let lacking = extensions.into_iter().filter(|(flag, _, is_there)| is_used(flag) && !is_there);
    lacking.map(|(_, name, _)| name).collect()
}

/// Checks that this processor has all instructions that RocksDB is compiled with. To be called before any other
/// function of this crate that touches a database.
///
/// # Errors
/// [`ProcessorError`] if RocksDB would end the program with an illegal instruction.
pub fn check_processor() -> Result<(), ProcessorError> {
    let missing = missing(COMPILER_FLAGS.unwrap_or_default(), ProcessorFeatures::detect());
    if missing.is_empty() { Ok(()) } else { Err(ProcessorError { missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: ProcessorFeatures = ProcessorFeatures { has_sse42: false, has_pclmul: false };
    const MODEL_WITHOUT_PCLMUL: ProcessorFeatures =
        ProcessorFeatures { has_sse42: true, has_pclmul: false };
    const NEW: ProcessorFeatures = ProcessorFeatures { has_sse42: true, has_pclmul: true };

    #[test]
    fn a_processor_is_refused_for_what_it_lacks_of_the_instructions_in_use() {
        let both = "-O3 -msse4.2 -mpclmul";
        assert_eq!(missing(both, OLD), ["SSE 4.2", "PCLMUL"]);
        assert_eq!(missing(both, MODEL_WITHOUT_PCLMUL), ["PCLMUL"]);
        assert!(missing(both, NEW).is_empty());
        // A program that was built for old processors runs on them.
        assert_eq!(missing("-msse4.2", OLD), ["SSE 4.2"]);
        assert!(missing("", OLD).is_empty());
        assert!(missing("-msse4.1 -O3", OLD).is_empty());
        let error = ProcessorError { missing: missing(both, OLD) }.to_string();
        assert!(error.starts_with("this processor lacks SSE 4.2 and PCLMUL, "), "{error}");
        assert!(error.contains("docs/operating.md"), "{error}");
    }

    /// A flag that is added to the file and not to the check would end the program on some processors.
    #[test]
    fn each_flag_of_the_build_is_known_to_the_check() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cargo/config.toml");
        let file = std::fs::read_to_string(path).expect("the file is in the repository");
        let (_, value) =
            file.split_once("\nCXXFLAGS_x86_64_unknown_linux_gnu = \"").expect("it sets flags");
        let (flags, _) = value.split_once('"').expect("the value ends");
        assert_eq!(missing(flags, OLD).len(), flags.split_whitespace().count(), "{flags}");
        let is_set_here =
            cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"));
        assert_eq!(
            COMPILER_FLAGS.is_some(),
            is_set_here,
            "the compiler of this crate gets the flags"
        );
    }
}
