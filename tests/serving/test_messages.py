"""The client's own messages against the official ones."""

import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from dekr_tf.serving import messages

OFFICIAL = {
    each.DESCRIPTOR.name: each.DESCRIPTOR
    for each in (Int64Value, ModelSpec, TensorShapeProto.Dim, TensorShapeProto, TensorProto, PredictRequest)
} | {"PredictResponse": PredictResponse.DESCRIPTOR}


@pytest.mark.parametrize("name", messages.FIELDS)
def test_fields_are_the_official_ones(name):
    fields = messages.PredictRequest.DESCRIPTOR.file.message_types_by_name[name].fields
    assert len(fields) == len(messages.FIELDS[name])
    for field in fields:
        official = OFFICIAL[name].fields_by_name[field.name]
        assert (field.number, field.is_repeated) == (official.number, official.is_repeated)
        assert field.type == (field.TYPE_INT32 if official.type == official.TYPE_ENUM else official.type)
        if field.is_repeated and field.cpp_type != field.CPPTYPE_STRING and not field.message_type:
            assert field.is_packed and official.is_packed
        if field.message_type:
            assert field.message_type.name == official.message_type.name
            assert field.message_type.GetOptions().map_entry == official.message_type.GetOptions().map_entry


def test_a_request_is_what_the_official_message_reads():
    request = messages.PredictRequest()
    request.model_spec.name = "dekr"
    request.model_spec.version.value = 3
    tensor = request.inputs["image_bytes"]
    tensor.dtype = 7
    tensor.tensor_shape.dim.add(size=2)
    tensor.string_val.extend([b"a", b"\xff"])
    official = PredictRequest.FromString(request.SerializeToString())
    assert (official.model_spec.name, official.model_spec.version.value) == ("dekr", 3)
    assert list(official.inputs["image_bytes"].string_val) == [b"a", b"\xff"]
    assert official.SerializeToString(deterministic=True) == request.SerializeToString(deterministic=True)
