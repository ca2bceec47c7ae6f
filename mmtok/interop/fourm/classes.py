"""The classes of 4M's semantic maps: undefined, then things and stuff as in COCO's panoptic task (Kirillov 2019)."""

CLASSES = (
    "void", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "banner", "blanket", "bridge",
    "cardboard", "counter", "curtain", "door", "wooden floor", "flower", "fruit", "gravel", "house", "light", "mirror",
    "net", "pillow", "platform", "playing field", "railroad", "river", "road", "roof", "sand", "sea", "shelf", "snow",
    "stairs", "tent", "towel", "brick wall", "stone wall", "tiled wall", "wooden wall", "water", "window blind",
    "window", "tree", "fence", "ceiling", "sky", "cabinet", "table", "floor", "pavement", "mountain", "grass", "dirt",
    "paper", "food", "building", "rock", "wall", "rug",
)  # fmt: skip
"""Name by id."""
