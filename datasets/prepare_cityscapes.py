"""Prepare Cityscapes (fine annotations, 19 classes) for cityscapes_fine_sem_seg_{train,val}.

1. Register at https://www.cityscapes-dataset.com and download leftImg8bit_trainvaltest.zip (11 GB)
   and gtFine_trainvaltest.zip (241 MB).
2. Unpack both in cityscapes/ in the folder that datasets lie in (DETECTRON2_DATASETS, or
   ./datasets).
3. Run this script. It writes, beside each *_labelIds.png, the *_labelTrainIds.png that training
   needs: 19 classes from 0 on, everything else 255. (cityscapesscripts' createTrainIdLabelImgs
   makes the same files; they are used if they are there.)
"""

import sys

from lrformer.data.prepare import main

if __name__ == "__main__":
    sys.exit(main("cityscapes_fine_sem_seg", __doc__))
