//! gRPC reflection, v1 and v1alpha, of the services that are served.

use hawser_proto::pb::FILE_DESCRIPTOR_SET;
use tonic::service::RoutesBuilder;
use tonic_reflection::server::Builder;

pub use tonic_reflection::server::Error as SchemaError;

/// The names of the services of reflection.
pub(crate) const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Adds reflection of `services`, by their full names. Other services of the schema stay hidden.
///
/// # Errors
/// [`SchemaError`] if the built-in descriptors do not decode.
pub fn reflect(
    routes: &mut RoutesBuilder,
    services: impl IntoIterator<Item = &'static str> + Clone,
) -> Result<(), SchemaError> {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let names = services.clone().into_iter();
        names.fold(builder, |builder, name| builder.with_service_name(name))
    };
    routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    Ok(())
}
