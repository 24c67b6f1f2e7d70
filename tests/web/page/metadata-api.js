// The part of the node's schema that the page calls with a client of Connect: `metadata_api.proto`, without a compiler.

import { createFileRegistry, fromJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

const PACKAGE = "xmtp.xmtpv4.metadata_api";
const typeOf = (name) => `.${PACKAGE}.${name}`;
const text = { type: "TYPE_STRING" };
const message = (typeName) => ({ type: "TYPE_MESSAGE", typeName });
const field = (name, number, kind, label = "LABEL_OPTIONAL") => {
  const jsonName = name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  return { name, jsonName, number, label, ...kind };
};

const file = {
  name: "metadata_api.proto",
  package: PACKAGE,
  syntax: "proto3",
  messageType: [
    { name: "GetVersionRequest" },
    { name: "GetVersionResponse", field: [field("version", 1, text)] },
    { name: "GetPayerInfoRequest", field: [field("payer_addresses", 1, text, "LABEL_REPEATED")] },
    { name: "GetPayerInfoResponse" },
    { name: "GetSyncCursorRequest" },
    { name: "GetSyncCursorResponse", field: [field("latest_sync", 1, message(typeOf("Cursor")))] },
    {
      name: "Cursor",
      field: [field("node_id_to_sequence_id", 1, message(typeOf("Cursor.Entry")), "LABEL_REPEATED")],
      nestedType: [
        {
          name: "Entry",
          field: [field("key", 1, { type: "TYPE_UINT32" }), field("value", 2, { type: "TYPE_UINT64" })],
          options: { mapEntry: true },
        },
      ],
    },
  ],
  service: [
    {
      name: "MetadataApi",
      method: [
        { name: "GetVersion", inputType: typeOf("GetVersionRequest"), outputType: typeOf("GetVersionResponse") },
        { name: "GetPayerInfo", inputType: typeOf("GetPayerInfoRequest"), outputType: typeOf("GetPayerInfoResponse") },
        {
          name: "SubscribeSyncCursor",
          inputType: typeOf("GetSyncCursorRequest"),
          outputType: typeOf("GetSyncCursorResponse"),
          serverStreaming: true,
        },
      ],
    },
  ],
};

export const MetadataApi = createFileRegistry(fromJson(FileDescriptorSetSchema, { file: [file] })).getService(
  `${PACKAGE}.MetadataApi`,
);
