"""The messages of TensorFlow Serving's gRPC method `Predict`, described here so that a client needs no TensorFlow.

The official package, `tensorflow-serving-api`, imports TensorFlow along with its messages. On the wire a message is
field numbers and values; `FIELDS` has those that the client uses, from `tensorflow_serving/apis/predict.proto` and
`model.proto` and from `tensorflow/core/framework/tensor.proto` and `tensor_shape.proto`.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METHOD = "/tensorflow.serving.PredictionService/Predict"

_PACKAGE = "tensorflow.serving"
#: (name, number, type) of each message's fields; the type is one of Protocol Buffers, or a message. `*` repeats it, and
#: a `map` has strings as keys. An enum, such as `dtype`, is an int32 on the wire.
FIELDS = {
    "Int64Value": (("value", 1, "int64"),),
    "ModelSpec": (("name", 1, "string"), ("version", 2, "Int64Value"), ("signature_name", 3, "string")),
    "Dim": (("size", 1, "int64"),),
    "TensorShapeProto": (("dim", 2, "*Dim"),),
    "TensorProto": (
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "TensorShapeProto"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "*float"),
        ("double_val", 6, "*double"),
        ("int_val", 7, "*int32"),
        ("string_val", 8, "*bytes"),
        ("int64_val", 10, "*int64"),
    ),
    "PredictRequest": (("model_spec", 1, "ModelSpec"), ("inputs", 2, "map TensorProto")),
    "PredictResponse": (("outputs", 1, "map TensorProto"),),
}


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    repeated = kind.startswith(("*", "map "))
    field = message.field.add(name=name, number=number)
    field.label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
    target = kind.removeprefix("*")
    if kind.startswith("map "):
        # A map is a repeated message of its keys and values.
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, kind.removeprefix("map "))
        target = f"{message.name}.{entry.name}"
    if kind.startswith("map ") or target in FIELDS:
        field.type, field.type_name = types.TYPE_MESSAGE, f".{_PACKAGE}.{target}"
    else:
        field.type = types.Type.Value(f"TYPE_{target.upper()}")


def _message_classes() -> list[type]:
    file = descriptor_pb2.FileDescriptorProto(name="dekr_tf/predict.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, *field)
    # In a separate pool: the default one may hold the official messages, which have the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = [pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in ("PredictRequest", "PredictResponse")]
    return [message_factory.GetMessageClass(descriptor) for descriptor in found]


PredictRequest, PredictResponse = _message_classes()
