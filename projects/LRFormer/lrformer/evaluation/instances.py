"""Average precision of instances by COCO's rules."""

from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator


class InstanceEvaluator(COCOEvaluator):
    """detectron2's evaluator, for masks, on any dataset with COCO's instance annotations.

    detectron2's wants things to be a dataset's first classes, which they are not where a model
    predicts stuff too. An instance of a class without annotations (stuff) is left out here.

    Args:
        dataset_name: with ``json_file`` and ``thing_dataset_id_to_contiguous_id`` as metadata.
        output_dir: folder for ``coco_instances_results.json``; None: no files.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        # The fast implementation is compiled; COCO's own is the reference anyway.
        super().__init__(dataset_name, ("segm",), output_dir=output_dir, use_fast_impl=False)
        ids = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
        known = self._coco_api.cats
        self._dataset_ids = {label: i for i, label in ids.items() if i in known}
        # Without a mapping of ids detectron2 takes the predictions' as they are.
        self._metadata = Metadata(
            name=dataset_name, thing_classes=[known[i]["name"] for i in sorted(known)]
        )

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the "instances" of a batch of images with an "image_id"."""
        first = len(self._predictions)
        super().process(inputs, outputs)
        for prediction in self._predictions[first:]:
            prediction["instances"] = [
                {**instance, "category_id": self._dataset_ids[instance["category_id"]]}
                for instance in prediction["instances"]
                if instance["category_id"] in self._dataset_ids
            ]
